"""Conversations that show images: what is read of them, and that packing changes nothing."""

import argparse
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch, Sample
from plumbline.data.image_lists import pack_images
from plumbline.data.turns import IMAGE_ID, IMAGE_MARK, Turn, dump_turns
from plumbline.errors import ConfigError, DataError
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.rows import dialogue_mask
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.kinds.vlm.talk_rows import TalkSource
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.predict import add_options, predict
from plumbline.tokenization.tokenizer import load_tokenizer
from plumbline.training.task import TrainingJob
from tests.chat_checkpoints import CHECKPOINTS, write_checkpoint
from tests.checkpoints import record_checkpoint
from tests.tiny import CASES, make_cache, picture, write_rows

MakeJob = Callable[..., TrainingJob]
Caches = Callable[[str], TrainingCache]
IMAGE_TOKENS = 4


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # features of frozen encoders and checkpoints go below it


def vlm_of(job: TrainingJob) -> Vlm:
    assert isinstance(job.model, Vlm)
    return job.model


def samples(job: TrainingJob, count: int = 8) -> list[Sample]:
    return [job.train.sample(at, 0) for at in range(count)]


def in_float64(job: TrainingJob, batch: Batch) -> tuple[float, int, list[Tensor]]:
    """Loss, count and gradients of a batch."""
    model = job.model.double().eval()
    wide = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    model.zero_grad()
    found = job.task.loss(model, wide)
    found.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return found.total.item(), int(found.count), gradients


@pytest.mark.parametrize("freeze", [["image_encoder"], []])
def test_packed_rows_give_what_padded_ones_give(make_job: MakeJob, freeze: list[str]) -> None:
    padded, packed = (
        make_job("vlm_turns", task={"rows": rows}, freeze=freeze) for rows in ("padded", "packed")
    )
    chosen = samples(padded, 12)
    batches = [job.task.collate(chosen) for job in (padded, packed)]
    assert batches[1]["input_ids"].shape[0] < batches[0]["input_ids"].shape[0] == 12
    one, other = (in_float64(padded, batch) for batch in batches)
    assert other[0] == pytest.approx(one[0], rel=1e-6)
    assert other[1] == one[1] > 0
    for found, expected in zip(other[2], one[2], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_row_gives_the_sum_of_its_conversations(make_job: MakeJob) -> None:
    job = make_job("vlm_turns", task={"rows": "packed"})
    chosen = samples(job)
    whole = in_float64(job, job.task.collate(chosen))
    alone = [in_float64(job, job.task.collate([sample])) for sample in chosen]
    assert whole[0] == pytest.approx(sum(total for total, _, _ in alone), rel=1e-6)
    assert whole[1] == sum(count for _, count, _ in alone)


def numbers_of(batch: Batch) -> Tensor:
    """Which conversation each position is of: [rows, seq], from 1; 0: padding."""
    positions = batch["position_ids"]
    following = torch.nn.functional.pad(positions[:, 1:], (0, 1))
    padding = (positions == 0) & (following != 1)
    number: Tensor = (positions == 0).cumsum(dim=1) * ~padding
    return number


def test_no_conversation_sees_another_and_none_sees_ahead(make_job: MakeJob) -> None:
    """Neither a token of another nor one of its images."""
    job = make_job("vlm_turns", task={"rows": "packed"}, freeze=["image_encoder"])
    batch, model = job.task.collate(samples(job, 12)), vlm_of(job).eval()
    names = ("image_features", "input_ids", "position_ids", "mask", "image_places")

    def hidden(**changed: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.hidden_states(*((batch | changed)[name] for name in names))

    before, number = hidden(), numbers_of(batch)
    assert number.max() > 1

    def check(row: int, at: int, **changed: Tensor) -> None:
        differs = (hidden(**changed) != before).any(dim=-1)  # [rows, seq]
        may = torch.zeros_like(differs)
        may[row] = (number[row] == number[row, at]) & (torch.arange(len(may[row])) >= at)
        assert differs[row, at]
        foreign = differs & ~may & (number > 0)
        torch.testing.assert_close(foreign, torch.zeros_like(foreign))

    texts = (~batch["image_places"] & (number > 0)).nonzero().tolist()
    for row, at in texts[:: len(texts) // 12]:
        ids = batch["input_ids"].clone()
        ids[row, at] = (ids[row, at] + 3) % 20
        check(row, at, input_ids=ids)
    places = batch["image_places"].nonzero().tolist()
    for image in range(len(batch["image_features"])):
        features = batch["image_features"].clone()
        features[image] *= torch.linspace(-1, 2, features.shape[-1])
        check(*places[image * IMAGE_TOKENS], image_features=features)


def test_the_mask_agrees_with_its_definition(make_job: MakeJob) -> None:
    job = make_job("vlm_turns", task={"rows": "packed"})
    batch = job.task.collate(samples(job, 12))
    number = numbers_of(batch)
    mask = dialogue_mask(batch["mask"])[:, 0]
    known = (number[:, :, None] == number[:, None, :]).tril()
    counts = number > 0  # what padding sees, nobody minds, but it sees something
    torch.testing.assert_close(mask[counts], known[counts])
    assert mask.any(dim=-1).all()


def test_rows_of_one_conversation_need_no_mask(make_job: MakeJob) -> None:
    job = make_job("vlm_turns")
    assert job.task.collate(samples(job))["mask"].shape[1] == 0


def test_two_images_that_change_places_change_the_answer(make_job: MakeJob) -> None:
    job = make_job("vlm_turns", freeze=["image_encoder"])
    chosen = next(s for s in samples(job, 12) if len(np.unique(s["features"], axis=0)) == 2)
    swapped = {**chosen, "features": chosen["features"][::-1].copy()}
    with torch.inference_mode():
        one, other = (
            vlm_of(job).hidden_states(*(job.task.collate([sample])[name] for name in NAMES))
            for sample in (chosen, swapped)
        )
        logits = [vlm_of(job).logits(hidden) for hidden in (one, other)]
    said = job.task.collate([chosen])["labels"] != IGNORE_INDEX
    assert ((logits[0] - logits[1])[said].abs().amax(dim=-1) > 1e-4).all()


NAMES = ("image_features", "input_ids", "position_ids", "mask", "image_places")


def test_an_encoder_that_trains_sees_what_a_frozen_one_has_seen(make_job: MakeJob) -> None:
    frozen, free = (make_job("vlm_turns", freeze=f) for f in (["image_encoder"], []))
    one, other = (job.task.collate(samples(job)) for job in (frozen, free))
    assert "pixel_values" not in one
    assert "image_features" not in other
    with torch.inference_mode():
        tokens = vlm_of(free).image_encoder(other["pixel_values"]).tokens
    torch.testing.assert_close(one["image_features"], tokens, rtol=1e-5, atol=1e-6)


def test_conversations_without_images_are_read_beside_others(make_job: MakeJob) -> None:
    for freeze in ([], ["image_encoder"]):
        job = make_job("vlm_turns", freeze=freeze)
        texts = [s for s in samples(job, 24) if IMAGE_ID not in s["ids"]]
        assert len(texts) > 2
        total, count, gradients = in_float64(job, job.task.collate(texts))
        assert count > 0
        assert np.isfinite(total)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_each_distinct_image_is_cached_once(caches: Caches) -> None:
    cache = caches("shown")
    numbers, begins = cache.shown("train")
    assert len(numbers) == begins[-1] > len(np.unique(numbers))
    every = np.concatenate([cache.shown(split)[0] for split in cache.splits])
    assert cache.facts["images"] == len(np.unique(every)) == every.max() + 1


def shows(content: str) -> Turn:
    marks = list(range(content.count(IMAGE_MARK)))
    turn: Turn = {"role": "user", "content": content}
    return {**turn, "images": marks} if marks else turn


def says(content: str) -> Turn:
    return {"role": "assistant", "content": content}


I = IMAGE_MARK  # noqa: E741
TALKS: list[tuple[list[Turn], list[int]]] = [
    # The own template, one token a character: 1 + 1 + 4 + 1 and 1 + 2 + 1, 1 + 8 + 1 and 1 + 1 + 1.
    ([shows(f"a{I}"), says("bb"), shows(f"{I}{I}"), says("c")], [1, 2, 1]),
    ([shows("aaaa"), says("bb")], []),
    ([shows("a"), says("b"), shows(f"{I}"), says("ccc")], [3]),
]
ENDS = [[11, 24], [10], [6, 17]]
"""Of each conversation the tokens up to the end of each answer, where an image takes 4."""


def cache_of(folder: Path, checkpoint: Path | None = None) -> TrainingCache:
    (folder / "clean").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for at, (turns, images) in enumerate(TALKS):
        row = {"sample_id": str(at), "turns": dump_turns(turns)}
        rows.append(row | ({"images": pack_images(list(map(picture, images)))} if images else {}))
    write_rows(folder / "clean", "train", rows)
    tokenize: dict[str, Any] = {"tokenizer": {"kind": "char"}}
    weights = {}
    if checkpoint is not None:
        tokenize["tokenizer"] = {"pretrained": "theirs"}
        weights["weights"] = record_checkpoint(checkpoint)
    cache: TrainingCache = make_cache(folder, tokenize, {"min_train_rows": 1}, **weights)
    return cache


def source_of(cache: TrainingCache, block_size: int = 400) -> TalkSource:
    return TalkSource(cache, "train", block_size, IMAGE_TOKENS, None)


def learnt(cache: TrainingCache, sample: Sample) -> str:
    ids = sample["ids"][sample["labels"] != IGNORE_INDEX].tolist()
    return str(load_tokenizer(cache.folder).decode(ids, skip_special_tokens=False))


def test_answers_and_their_ends_are_learnt_and_nothing_else(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    source = source_of(cache)
    assert [learnt(cache, source.sample(at, 0)) for at in range(3)] == [
        "bb<|end|>c<|end|>",
        "bb<|end|>",
        "b<|end|>ccc<|end|>",
    ]
    for at, sample in enumerate(source.sample(at, 0) for at in range(3)):
        assert len(sample["ids"]) == source.length(at) == ENDS[at][-1]
        shown = (sample["ids"] == IMAGE_ID).sum()
        np.testing.assert_equal(shown, IMAGE_TOKENS * len(TALKS[at][1]))
        np.testing.assert_array_equal(sample["labels"][sample["ids"] == IMAGE_ID], IGNORE_INDEX)
    for at, (_, images) in enumerate(TALKS):
        for pixels, image in zip(source.sample(at, 0)["pixels"], images, strict=True):
            expected = np.asarray(Image.open(io.BytesIO(picture(image))))
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_s_own_template_reaches_the_labels(tmp_path: Path, name: str) -> None:
    folder, end = write_checkpoint(tmp_path / "checkpoint", name), CHECKPOINTS[name].end
    cache = cache_of(tmp_path / "data", folder)
    source = source_of(cache)
    said = [learnt(cache, source.sample(at, 0)).replace(f"{end} ", end) for at in range(3)]
    assert said == [f"bb{end}c{end}", f"bb{end}", f"b{end}ccc{end}"]
    np.testing.assert_array_equal([len(source.images(at)) for at in range(3)], [3, 0, 1])


@pytest.mark.parametrize(
    ("block", "kept", "images", "cut", "lost"),
    [
        (23, [24, 10, 17], [3, 0, 1], 0, 0),
        (22, [11, 10, 17], [1, 0, 1], 1, 0),
        (16, [11, 10, 17], [1, 0, 1], 1, 0),
        (15, [11, 10, 6], [1, 0, 0], 2, 0),
        (9, [10, 6], [0, 0], 1, 1),
    ],
)
def test_whole_exchanges_go_with_their_images_and_are_counted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    block: int,
    kept: list[int],
    images: list[int],
    cut: int,
    lost: int,
) -> None:
    caplog.set_level(logging.WARNING)
    cache = cache_of(tmp_path)
    source = source_of(cache, block)
    np.testing.assert_array_equal([source.length(at) for at in range(len(source))], kept)
    for at, count in enumerate(images):
        sample = source.sample(at, 0)
        assert len(sample["ids"]) == kept[at]
        assert len(sample["pixels"]) == count
        np.testing.assert_equal((sample["ids"] == IMAGE_ID).sum(), count * IMAGE_TOKENS)
        assert learnt(cache, sample).endswith("<|end|>")
    said = f"of 3 conversations of split train, {cut} lose their last exchanges"
    assert [said in line for line in caplog.messages] == [True] * bool(cut + lost)
    assert [f"and {lost} are left out" in line for line in caplog.messages] == [True] * bool(
        cut + lost
    )


def test_a_model_of_texts_does_not_learn_answers_to_what_it_cannot_see(
    make_job: MakeJob, caches: Caches
) -> None:
    with pytest.raises(DataError, match="turns show images, which tasks of kind vlm see alone"):
        make_job("causal_lm_turns", cache=caches("shown"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="none are drawn: leave questions_per_image out"):
        VlmTaskConfig(text="turns", questions_per_image=1)
    decoder = {"decoder": {"max_positions": 64}}
    model = VlmConfig.model_validate(decoder)
    with pytest.raises(ValueError, match=r"block_size 65 is longer than model\.decoder\."):
        VlmTaskConfig(text="turns", block_size=65).check_model(model)
    VlmTaskConfig(text="turns", block_size=64).check_model(model)
    VlmTaskConfig(block_size=65).check_model(model)


def test_only_a_model_of_conversations_stores_a_template(
    stored_case: Callable[[str], Path],
) -> None:
    spec, old = (load_model(stored_case(name)).spec for name in ("vlm_turns", "vlm"))
    stored = spec.model_dump()
    assert stored["block_size"] == CASES["vlm_turns"].task["block_size"]
    assert set(stored) - set(old.model_dump()) == {"chat", "block_size"}


def ask(folder: Path, *flags: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return predict(folder, parser.parse_args(["talk", *flags]))


def asked(*names: str, question: str = "to be?") -> str:
    parts = [part for name in names for part in ({"type": "image", "image": name}, NEW_LINE)]
    turns = [
        {"role": "system", "content": "be noble"},
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
    ]
    return json.dumps(turns)


NEW_LINE = {"type": "text", "text": "\n"}


def test_a_model_is_asked_about_the_images_of_turns(
    stored_case: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = stored_case("vlm_turns")
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    said = ask(folder, "--messages", asked("1.png", "2.png"), "--max-new-tokens", "3")
    assert set(said) == {"messages", "answer", "device"}
    alone = json.dumps(json.loads(asked("1.png"))[1:])
    by_turn = ask(folder, "--messages", alone, "--max-new-tokens", "3")
    by_flags = ("--image", "1.png", "--question", "to be?", "--max-new-tokens", "3")
    assert ask(folder, *by_flags) == by_turn


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("vlm_turns", ["--messages", asked("none.png")], "none.png: No such file"),
        ("vlm_turns", ["--messages", asked(*["1.png"] * 30)], "the model has 96 positions"),
        ("vlm_turns", ["--messages", asked("a\0.png")], r"'a\x00.png': embedded null byte"),
        ("vlm_turns", ["--messages", asked("data:,a")], "an image is a URL; name a file"),
        ("vlm_turns", ["--messages", asked(question="\ud800")], "half of a surrogate pair"),
        ("vlm_turns", ["--messages", asked("")], 'parts of type "image" name a file'),
        ("vlm_turns", ["--image", "1.png", "--question", " "], "--question: empty"),
        ("vlm_turns", ["--image", "1.png", "--messages", asked("1.png")], "one of them, not both"),
        ("vlm_turns", ["--question", "a"], "--image, or --messages: missing"),
        ("vlm", ["--messages", asked("1.png")], "was not trained on conversations"),
        ("causal_lm_turns", ["--messages", asked("1.png")], "a model of texts does not see"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    stored_case: Callable[[str], Path], tmp_path: Path, name: str, flags: list[str], said: str
) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    with pytest.raises(ConfigError, match=re.escape(said)):
        ask(stored_case(name), *flags)
