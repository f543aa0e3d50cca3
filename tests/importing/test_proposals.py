"""Models and trainings follow from how much there is to train on, and from what the machine has."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from plumbline.config import check_config
from plumbline.importing.drafts import Asked
from plumbline.importing.importer import look, train_rows
from plumbline.importing.layouts import recognise
from plumbline.importing.sizes import Machine, Sizes, this_machine
from plumbline.importing.subjects import Proposal
from plumbline.importing.trial import try_rows
from plumbline.sources.caption_rules import CaptionRule, fill_captions
from plumbline.stages.prepare import PrepareConfig
from tests.importing import layouts

TWO_CORES = Machine(2, 0)


def proposed(path: Path, machine: Machine = TWO_CORES, **asked: Any) -> Proposal:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plumbline.importing.importer.this_machine", lambda: machine)
        found = look(path, "x", Asked(**asked), path.parent / "project", {})
    assert found.proposal is not None
    return found.proposal


def train_of(proposal: Proposal) -> Any:
    assert proposal.task is not None
    return proposal.task["train"]


def review(number: int, split: str) -> str:
    return f"{split:-<5} film {number:05} is {'good' if number % 2 else 'poor'}"


def parquet_splits(root: Path, rows: dict[str, int]) -> None:
    root.mkdir()
    for split, count in rows.items():
        texts = [review(number, split) for number in range(count)]
        table = {"sentence": texts, "label": [number % 2 for number in range(count)]}
        pq.write_table(pa.table(table), root / f"{split}.parquet")


def csv_splits(root: Path, rows: dict[str, int]) -> None:
    for split, count in rows.items():
        body = "".join(f"{review(number, split)}\t{number % 2}\n" for number in range(count))
        layouts.put(root / f"{split}.tsv", "sentence\tlabel\n" + body)


def text_splits(root: Path, rows: dict[str, int]) -> None:
    for split, count in rows.items():
        layouts.put(root / f"{split}.txt", "".join(f"{review(n, split)}\n" for n in range(count)))


@pytest.mark.parametrize("make", [parquet_splits, csv_splits, text_splits])
@pytest.mark.parametrize(
    ("rows", "trained"),
    [
        ({"train": 9000, "dev": 600, "test": 400}, 9000),
        ({"train": 9000, "test": 3000}, 8100),  # a tenth is drawn for validation
    ],
    ids=["three splits", "two splits"],
)
def test_rows_to_train_on_are_those_of_the_split_and_not_of_the_trial(
    tmp_path: Path,
    make: Callable[[Path, dict[str, int]], None],
    rows: dict[str, int],
    trained: int,
) -> None:
    make(tmp_path / "data", rows)
    draft = recognise(tmp_path / "data", Asked())
    views = {"views": {draft.plan.view: list(draft.plan.needs)}}
    trial = try_rows(draft.path, draft.prepare, views)
    assert not trial.whole
    # Rows of text files are estimated by their bytes, a drawn split by the rows tried.
    assert train_rows(draft, trial) == pytest.approx(trained, rel=0.03)


def test_rows_to_train_on_of_class_folders_are_counted_by_split(tmp_path: Path) -> None:
    layouts.split_class_folders(tmp_path / "data")
    draft = recognise(tmp_path / "data", Asked())
    folders = {"train": "train", "val": "validation", "test": "test"}
    counted = {
        split: sum(path.is_file() for path in (tmp_path / "data" / folder).rglob("*"))
        for split, folder in folders.items()
    }
    assert draft.split_rows == counted


def grouped(root: Path, apart: bool) -> None:
    root.mkdir()
    for start, split in ((0, "train"), (6 * apart, "test")):
        people = [f"p{start + number % 6}" for number in range(60)]
        table = {"text": [review(n, split) for n in range(60)], "label": [0, 1] * 30}
        pq.write_table(pa.table({**table, "speaker": people}), root / f"{split}.parquet")


@pytest.mark.parametrize("apart", [True, False])
def test_a_group_that_the_given_splits_part_keeps_nobody_out_of_training(
    tmp_path: Path, apart: bool
) -> None:
    data = tmp_path / "data"
    grouped(data, apart)
    found = look(data, "x", Asked(), tmp_path / "project", {})
    assert ("group" in found.draft.columns) == apart
    assert ("speaker" in found.draft.unused) == (not apart)
    assert any("6 of its values stand in several" in note for note in found.draft.notes) != apart
    asked = look(data, "x", Asked(roles={"group": "speaker"}), tmp_path / "project", {})
    assert asked.draft.columns["group"] == "speaker"


@pytest.mark.parametrize(("rows", "batch"), [(100, 16), (1000, 32), (7000, 32), (500_000, 128)])
def test_batches_leave_a_training_a_thousand_steps_or_are_small(rows: int, batch: int) -> None:
    sizes = Sizes(rows, TWO_CORES, None)  # type: ignore[arg-type]
    assert sizes.batch("text") == batch
    steps = sizes.epochs("text") * rows // batch
    assert steps >= 1000 or batch <= 32
    assert sizes.batch("text", 8) == 8
    # Who starts from what has learned already needs fewer steps.
    assert batch <= sizes.batch("text", steps=500) <= 2 * batch
    assert sizes.epochs("text") * rows // sizes.batch("text", steps=500) >= 500 or batch <= 32


@pytest.mark.parametrize(
    ("machine", "rows", "optim"),
    [
        (Machine(2, 0, bf16=True), 3000, "muon"),
        (Machine(2, 0, bf16=False), 3000, "adamw"),
        (Machine(2, 0, bf16=True), 300, "adamw"),
    ],
)
def test_language_models_take_muon_where_its_iterations_are_cheap(
    tmp_path: Path, machine: Machine, rows: int, optim: str
) -> None:
    text_splits(tmp_path / "data", {"train": rows, "test": 300})
    for task in ("causal_lm", "masked_lm"):
        assert proposed(tmp_path / "data", machine, task=task).optim == optim
    pairs = "".join(f"ein Satz {n}\ta sentence {n}\n" for n in range(rows * 5 // 4))
    layouts.put(tmp_path / "pairs.tsv", f"de\ten\n{pairs}")
    assert proposed(tmp_path / "pairs.tsv", machine).optim == optim


def test_units_for_bfloat16_are_told_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr("plumbline.importing.sizes.CPU_FACTS", facts)
    monkeypatch.setattr("plumbline.importing.sizes.DEVICES", ())
    found = []
    for flags in ("fpu avx2 avx512_bf16_no", "fpu avx512_bf16 amx_int8", "asimd bf16 i8mm"):
        facts.write_text(f"flags\t\t: {flags}\n", encoding="utf-8")
        found.append(this_machine().bf16)
    facts.unlink()
    assert (*found, this_machine().bf16) == (False, True, True, False)


@pytest.mark.parametrize(
    ("machine", "norm", "optim"), [(TWO_CORES, "group", "adamw"), (Machine(2, 1), "batch", "sgd")]
)
def test_batch_norm_and_sgd_are_for_classes_of_images_in_large_batches(
    tmp_path: Path, machine: Machine, norm: str, optim: str
) -> None:
    layouts.class_folders(tmp_path / "data", rows=1500)
    found = proposed(tmp_path / "data", machine)
    train = train_of(found)
    assert (train["model"]["encoder"]["norm"], found.optim) == (norm, optim)
    assert train["loader"]["drop_last"] == (norm == "batch")
    assert (train["loader"]["batch_size"] >= 64) == (norm == "batch")


def asked_images(root: Path, each: int) -> None:
    records = []
    for number in range(40):
        layouts.put(root / f"{number}.jpg", layouts.jpeg(number, layouts.colour_of(number)))
        record = {"image": f"{number}.jpg", "answer": layouts.colour_of(number)}
        records += [{**record, "question": f"which colour, {n}?"} for n in range(each)]
    layouts.put(root / "vqa.jsonl", layouts.lines(*records))


def test_questions_without_captions_train_the_image_encoder_by_their_answers(
    tmp_path: Path,
) -> None:
    asked_images(tmp_path / "data", 2)
    found = proposed(tmp_path / "data")
    train = train_of(found)
    assert found.align is None
    assert train["freeze"] == []
    assert train["model"]["image_encoder"]["name"] == "vit"
    assert train["task"]["captions_per_image"] == 0
    layouts.images_and_csv(tmp_path / "captioned")
    captioned = proposed(tmp_path / "captioned")
    assert captioned.align is not None
    assert train_of(captioned)["freeze"] == ["image_encoder"]
    assert train_of(captioned)["model"]["image_encoder"] is None


def test_an_epoch_of_questions_is_as_long_as_its_images(tmp_path: Path) -> None:
    epochs = []
    for each in (1, 40):
        asked_images(tmp_path / f"{each}", each)
        epochs.append(train_of(proposed(tmp_path / f"{each}"))["trainer"]["epochs"])
    assert epochs[0] == epochs[1]


def test_a_common_answer_tells_images_apart_where_a_question_seldom_has_it(tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "gray")
    records = []
    for number in range(80):
        layouts.put(tmp_path / f"data/{number}.jpg", layouts.jpeg(number))
        is_of, shot = colours[number % 4], {"image": f"{number}.jpg"}
        records.append({**shot, "question": "which number?", "answer": f"{number % 20}"})
        for one in colours:
            yes, no = ("yes", "no") if one == is_of else ("no", "yes")
            records.append({**shot, "question": f"is it {one} (all)?", "answer": yes})
            records.append({**shot, "question": f"is it not {one}?", "answer": no})
        records.append({**shot, "question": "is it odd?", "answer": ("no", "yes")[number % 2]})
    layouts.put(tmp_path / "data/vqa.jsonl", layouts.lines(*records))
    found = look(tmp_path / "data", "x", Asked(), tmp_path / "project", {})
    assert "which many share unless" in found.files["conf/datasets/x.yaml"]
    assert found.proposal is not None
    rules = [CaptionRule(**rule) for rule in found.proposal.source["captions"]]  # type: ignore[attr-defined]
    assert not any(re.fullmatch(rule.question, "which number?") for rule in rules[1:])
    made = fill_captions(pa.RecordBatch.from_pylist(records), rules)
    captions = {(row["question"], row["answer"]): row["caption"] for row in made.to_pylist()}
    expected = [f"which number? {number}" for number in range(20)]
    for one in colours:
        expected += [f"is it {one} (all)? yes", f"is it not {one}? no"]
    assert sorted(filter(None, captions.values())) == sorted(expected)
    # The decoder learns these captions whole, and fewer steps do as its encoder has learned.
    train, aligned = train_of(found.proposal), found.proposal.align
    assert aligned is not None
    limit = aligned["train"]["task"]["max_text_tokens"]  # type: ignore[index]
    assert train["task"]["max_text_tokens"] == limit
    assert 500 <= train["trainer"]["epochs"] * 80 // train["loader"]["batch_size"] < 1000


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_images_without_captions_are_aligned_by_the_answers_that_few_questions_share(
    tmp_path: Path, ending: str
) -> None:
    layouts.telling_questions(tmp_path / "data", ending)
    found = look(tmp_path / "data", "x", Asked(), tmp_path / "project", {})
    assert found.proposal is not None
    assert found.proposal.align is not None
    train = train_of(found.proposal)
    assert train["freeze"] == ["image_encoder"]
    assert train["model"]["image_encoder"] is None
    assert train["task"]["captions_per_image"] == 1
    assert "answer it" in train["task"]["caption_prompt"]
    text = found.files["conf/datasets/x.yaml"]
    assert "but for no and yes" in text
    # As Hydra reads it, to which a dollar before a brace means something.
    params = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    prepare = params["x"]["prepare"]  # type: ignore[call-overload,index]
    sections = {"path": "path", "prepare": "prepare"}
    source = check_config(PrepareConfig, sections, {"path": "x", "prepare": prepare}).prepare
    rows = [row for batch in source.read(tmp_path / "data") for row in batch.to_pylist()]
    captions = {(row["question"], row["answer"]): row["caption"] for row in rows}
    told = [f"which number? ${{no. {number}}}" for number in range(20)]
    assert sorted(filter(None, captions.values())) == sorted(told)
    assert captions["is it red?", "yes"] is captions["is it blue?", "no"] is None


def test_answers_that_all_images_share_give_no_alignment_and_a_lower_rate(tmp_path: Path) -> None:
    layouts.questions(tmp_path / "data")
    proposal = proposed(tmp_path / "data")
    assert proposal.align is None
    train = train_of(proposal)
    assert train["freeze"] == []
    assert train["model"]["image_encoder"]["name"] == "vit"
    assert train["trainer"]["optim"]["lr"] == 1.0e-3


def test_a_batch_of_an_alignment_is_no_larger_than_half_of_its_images(tmp_path: Path) -> None:
    for number in range(20):
        layouts.put(tmp_path / f"data/images/{number}.jpg", layouts.jpeg(number))
    table = "".join(f"{n}.jpg,picture {n} by {m}\n" for n in range(20) for m in range(30))
    layouts.put(tmp_path / "data/captions.csv", "file,caption\n" + table)
    proposal: Any = proposed(tmp_path / "data")
    assert proposal.align["train"]["loader"] == {"batch_size": 8, "drop_last": True}


def test_conversations_are_read_without_images_where_texts_alone_are_asked_for(
    tmp_path: Path,
) -> None:
    layouts.messages_with_images(tmp_path / "data")
    draft = recognise(tmp_path / "data", Asked(task="causal_lm"))
    assert draft.prepare["chat"] == {"dialect": "messages", "images": "ignored"}
    assert any("a model of texts alone is asked for" in note for note in draft.notes)


def test_a_block_has_room_for_all_images_of_a_conversation(tmp_path: Path) -> None:
    layouts.messages_with_images(tmp_path / "data")
    train = train_of(proposed(tmp_path / "data"))
    # Two images of 48 x 48 pixels, a token for each 16 x 16, beside 32 tokens or more of text.
    assert train["task"]["block_size"] >= 2 * 9 + 32
    assert train["model"]["decoder"]["max_positions"] == train["task"]["block_size"]


def test_an_alignment_is_exported_where_no_task_starts_from_it(tmp_path: Path) -> None:
    layouts.images_and_csv(tmp_path / "data")
    alone: Any = proposed(tmp_path / "data", task="alignment").align
    assert alone["export"] == {"enabled": True, "split": "test", "gallery_split": "val"}
    under: Any = proposed(tmp_path / "data").align
    assert under["export"]["enabled"] is False
