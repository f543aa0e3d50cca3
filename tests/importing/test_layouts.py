"""What people have is recognised, or refused in a line that says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.cli.main import call
from plumbline.config import compose_yaml
from plumbline.errors import ConfigError, DataError, PlumblineError
from plumbline.importing.drafts import Asked, Draft
from plumbline.importing.importer import look
from plumbline.importing.layouts import recognise
from plumbline.stages.check_params import check_settings
from tests.importing import layouts
from tests.pipeline.checkout import ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's settings, which all imports of this module are written into."""
    import shutil

    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    return folder


def drafted(make: Callable[[Path], None], root: Path, name: str = "", **asked: Any) -> Draft:
    make(root)
    return recognise(root / name, Asked(**asked))


MEDIA = {"source": "csv", "media": "path"}
RIGHT: dict[str, tuple[Callable[[Path], None], str, str, dict[str, Any]]] = {
    "class folders": (
        *(layouts.class_folders, "", "classification"),
        {"source": "imagefolder", "labels": "folder", "endings": "any"},
    ),
    "class folders in folders of splits": (
        *(layouts.split_class_folders, "", "classification"),
        {
            "source": "imagefolder",
            "labels": "folder",
            "splits": {"train": "train", "val": "validation", "test": "test"},
        },
    ),
    "images and a table": (
        *(layouts.images_and_csv, "", "vlm"),
        {
            **MEDIA,
            "media_folder": "images",
            "files": "captions.csv",
            "columns": {"image": "file", "caption": "caption"},
        },
    ),
    "the table of them": (
        *(layouts.images_and_csv, "captions.csv", "vlm"),
        {
            **MEDIA,
            "media_folder": "images",
            "files": "captions.csv",
            "columns": {"image": "file", "caption": "caption"},
        },
    ),
    "clips and a table": (
        *(layouts.clips_and_csv, "", "classification"),
        {
            **MEDIA,
            "media_folder": "clips",
            "files": "labels.csv",
            "columns": {"audio": "path", "label": "label"},
        },
    ),
    "ids without endings": (
        *(layouts.ids_without_endings, "", "classification"),
        {
            **MEDIA,
            "delimiter": ";",
            "encoding": "cp1252",
            "media_folder": "train",
            "media_ending": ".jpg",
            "files": "labels.csv",
            "columns": {"image": "id", "label": "breed"},
        },
    ),
    "the layout of a hub": (
        *(layouts.hub_layout, "", "classification"),
        {
            "source": "parquet",
            "splits": {
                "train": "data/train-00000-of-00001.parquet",
                "test": "data/test-00000-of-00001.parquet",
            },
            "columns": {"image": "image", "label": "label"},
        },
    ),
    "Parquet that names files": (
        *(layouts.parquet_of_paths, "", "regression"),
        {
            "source": "parquet",
            "media": "path",
            "media_folder": "pictures",
            "columns": {"image": "picture", "value": "price"},
        },
    ),
    "nested Parquet": (
        *(layouts.nested_parquet, "", "causal_lm"),
        {"source": "parquet", "columns": {"sample_id": "id", "text": "t"}},
    ),
    "tar shards": (
        *(layouts.webdataset, "", "vlm"),
        {"source": "webdataset", "columns": {"image": "jpg", "caption": "txt"}},
    ),
    "chat, messages": (
        *(layouts.messages, "", "causal_lm"),
        {
            "source": "jsonl",
            "chat": {"dialect": "messages", "images": False},
            "files": "messages.jsonl",
        },
    ),
    "chat, alpaca": (
        *(layouts.alpaca, "alpaca.jsonl", "causal_lm"),
        {"source": "jsonl", "chat": {"dialect": "alpaca", "images": False}},
    ),
    "chat, sharegpt with images that are not there": (
        *(layouts.sharegpt, "sharegpt.jsonl", "causal_lm"),
        {
            "source": "jsonl",
            "chat": {"dialect": "sharegpt", "images": "ignored"},
            "columns": {"sample_id": "id"},
        },
    ),
    "chat, messages with images in their parts": (
        *(layouts.messages_with_images, "", "vlm"),
        {
            "source": "jsonl",
            "chat": {"dialect": "messages", "images": True},
            "files": "train.jsonl",
            "media": "path",
            "columns": {"sample_id": "id"},
        },
    ),
    "chat, alpaca with URLs that hold images": (
        *(layouts.alpaca_with_images, "", "vlm"),
        {
            "source": "jsonl",
            "chat": {"dialect": "alpaca", "images": True},
            "files": "alpaca.jsonl",
            "media": "base64",
        },
    ),
    "chat, sharegpt beside images": (
        *(layouts.sharegpt_with_images, "talks.parquet", "vlm"),
        {
            "source": "parquet",
            "chat": {"dialect": "sharegpt", "images": True},
            "media": "path",
            "media_folder": "images",
            "columns": {"sample_id": "id"},
        },
    ),
    "CSV in Latin-1": (
        *(layouts.latin1_csv, "latin1.csv", "classification"),
        {"source": "csv", "encoding": "latin-1", "columns": {"label": "label", "text": "text"}},
    ),
    "CSV with whole floats as labels": (
        *(layouts.float_labels_csv, "float_labels.csv", "classification"),
        {"source": "csv", "columns": {"label": "label", "text": "text"}},
    ),
    "CSV with stray quotes": (
        *(layouts.stray_quotes_csv, "stray_quotes.csv", "causal_lm"),
        {"source": "csv", "quotes": False, "columns": {"sample_id": "id", "text": "t"}},
    ),
    "CSV without a header": (
        *(layouts.headerless_csv, "", "classification"),
        {
            **MEDIA,
            "header": ["file", "column2"],
            "files": "list.csv",
            "columns": {"image": "file", "label": "column2"},
        },
    ),
    "a table a split": (
        *(layouts.split_tables, "", "classification"),
        {
            "source": "csv",
            "delimiter": "\t",
            "splits": {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"},
            "files": "*.tsv",
            "columns": {"label": "label", "text": "sentence"},
        },
    ),
    "pairs of languages": (
        *(layouts.translations, "pairs.tsv", "seq2seq"),
        {"source": "csv", "delimiter": "\t", "columns": {"source": "de", "target": "en"}},
    ),
    "JSON Lines with base64": (
        *(layouts.base64_lines, "all.jsonl", "classification"),
        {"source": "jsonl", "media": "base64", "columns": {"image": "img", "label": "class"}},
    ),
    "questions on images": (
        *(layouts.questions, "", "vlm"),
        {
            "source": "jsonl",
            "media": "path",
            "files": "vqa.jsonl",
            "columns": {"image": "image", "question": "question", "answer": "answer"},
        },
    ),
    "sounds and what they say": (
        *(layouts.spoken, "", "alignment"),
        {
            **MEDIA,
            "delimiter": "|",
            "files": "metadata.psv",
            "columns": {"audio": "audio", "caption": "transcription"},
        },
    ),
    "a text": (layouts.plays, "plays.txt", "causal_lm", {"source": "text", "unit": "paragraph"}),
}


@pytest.mark.parametrize("which", RIGHT)
def test_a_layout_is_recognised_with_its_source_and_columns(tmp_path: Path, which: str) -> None:
    make, name, kind, prepare = RIGHT[which]
    draft = drafted(make, tmp_path / "data", name)
    assert draft.prepare == prepare
    assert draft.plan.kind == kind
    assert {role.role for role in draft.roles} >= set(draft.plan.needs)
    assert all(role.reason for role in draft.roles)


@pytest.mark.parametrize("which", RIGHT)
def test_what_is_imported_is_settings_that_every_stage_takes(
    tmp_path: Path, which: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, path, kind, _ = RIGHT[which]
    make(tmp_path / "data")
    monkeypatch.chdir(project)
    name = which.replace(" ", "-").replace(",", "")
    call(["import", str(tmp_path / "data" / path), "--name", name])
    composed = compose_yaml(project / "conf", "config", [f"experiment={name}"])
    check_settings(composed)
    groups = {group: list(composed[group]) for group in ("datasets", "align", "tasks")}  # type: ignore[call-overload]
    captioned = kind == "vlm" and "question" not in which and "chat" not in which
    made = (captioned or kind == "alignment", kind != "alignment")
    assert groups == {
        "datasets": [name],
        "align": [name] * made[0],
        "tasks": [name] * made[1],
    }


def test_rows_of_the_trial_are_those_of_the_real_validator(tmp_path: Path) -> None:
    layouts.float_labels_csv(tmp_path)
    found = look(tmp_path / "float_labels.csv", "x", Asked(), tmp_path / "project", {})
    assert found.trial.whole
    assert found.trial.rows == 100
    assert found.trial.report["reasons"] == {"null_label": 5}
    ids = [f"float_labels.csv:{number}" for number in (1, 21, 41)]
    assert [told.partition(": ")[0] for told in found.trial.rejected["null_label"]] == ids
    assert sum(found.trial.splits.values()) == 95
    assert found.trial.splits["test"] >= 5
    assert found.trial.splits["val"] >= 10


def nothing(root: Path) -> None:
    root.mkdir()


def flat_images(root: Path) -> None:
    for number in range(3):
        layouts.put(root / f"{number}.jpg", layouts.jpeg(number))


def one_class(root: Path) -> None:
    layouts.put(root / "cat/a.jpg", layouts.jpeg(1))
    layouts.put(root / "cat/b.jpg", layouts.jpeg(2))


def a_folder_a_file(root: Path) -> None:
    for number in range(8):
        layouts.put(root / f"{number}/a.jpg", layouts.jpeg(number))


def lost_images(root: Path) -> None:
    layouts.put(root / "t.csv", "file,label\na.jpg,x\nb.jpg,y\n")


def two_tables(root: Path) -> None:
    layouts.put(root / "a.csv", "text,label\nx,1\n")
    layouts.put(root / "b.csv", "name,price\ny,2\n")


def packed(root: Path) -> None:
    layouts.put(root / "all.zip", b"PK\x03\x04")


def sheet(root: Path) -> None:
    layouts.put(root / "all.xlsx", b"PK\x03\x04")


def document(root: Path) -> None:
    layouts.put(root / "all.json", json.dumps([{"text": "x"}]))


def list_as_lines(root: Path) -> None:
    layouts.put(root / "all.jsonl", json.dumps([{"text": "x"}]))


def cut_parquet(root: Path) -> None:
    root.mkdir()
    pq.write_table(pa.table({"t": ["x"] * 100}), root / "a.parquet")
    whole = (root / "a.parquet").read_bytes()
    (root / "a.parquet").write_bytes(whole[:-20])


def empty_table(root: Path) -> None:
    layouts.put(root / "a.csv", "text,label\n")


def no_table(root: Path) -> None:
    layouts.put(root / "a.csv", "")


def twice_named(root: Path) -> None:
    layouts.put(root / "a.csv", "text,text\nx,y\n")


def only_numbers(root: Path) -> None:
    layouts.put(root / "a.csv", "width,height\n" + "".join(f"{n}.5,{n}.25\n" for n in range(50)))


WRONG: dict[Callable[[Path], None], str] = {
    nothing: r"no layout that is known \(no file\)",
    flat_images: r"3 image files without a label: put them into a folder for each label, or a t",
    one_class: r"one folder of image files alone, cat: a folder for each label is needed",
    a_folder_a_file: r"8 folders for 8 files: folders are labels where several files share one",
    lost_images: r"column file names files such as a\.jpg, and none of them lies .*--image none",
    two_tables: r"2 kinds of \.csv tables with other columns \(a\.csv and b\.csv\): import one",
    packed: r"all\.zip is packed; unpack it",
    sheet: r"all\.xlsx is a spreadsheet; save it as CSV",
    document: r"all\.json is one JSON document, and JSON Lines are read: jq",
    list_as_lines: r"all\.jsonl: no line of it is a JSON object; JSON Lines have one a line",
    cut_parquet: r"a\.parquet: not readable as Parquet",
    empty_table: r"no row|zero rows|nothing to learn",
    no_table: r"a\.csv: is empty, or its first line is",
    twice_named: r"the header row has 'text' twice; name the columns with --header",
    only_numbers: r"nothing to learn: there is nothing, and no .*--\w+ COLUMN.*columns are width",
}


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_what_cannot_be_learned_from_is_said_in_a_line(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "data")
    with pytest.raises(PlumblineError, match=WRONG[make]) as error:
        look(tmp_path / "data", "x", Asked(), tmp_path / "project", {})
    assert "\n" not in str(error.value)


def test_a_path_that_is_not_there_or_holds_the_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        look(tmp_path / "nowhere", "x", Asked(), tmp_path / "project", {})
    with pytest.raises(ConfigError, match="holds this project"):
        look(tmp_path, "x", Asked(), tmp_path / "project", {})


def test_wrong_guesses_are_options(tmp_path: Path) -> None:
    asked = {"roles": {"label": "none", "caption": "captions"}}
    draft = drafted(layouts.hub_layout, tmp_path / "hub", **asked)
    assert draft.plan.kind == "vlm"
    assert draft.prepare["columns"] == {"image": "image", "caption": "captions"}
    draft = drafted(layouts.nested_parquet, tmp_path / "texts", task="masked_lm")
    assert draft.plan.kind == "masked_lm"
    roles = {"text": "none", "source": "t", "target": "id", "sample_id": "none"}
    draft = recognise(tmp_path / "texts", Asked(roles=roles))
    assert draft.prepare["columns"] == {"source": "t", "target": "id"}
    with pytest.raises(ConfigError, match=r"--caption title: no such column; there is id, t"):
        recognise(tmp_path / "texts", Asked(roles={"caption": "title"}))
    with pytest.raises(ConfigError, match=r"task seq2seq needs source and target: there is text"):
        recognise(tmp_path / "texts", Asked(task="seq2seq"))


def test_a_broken_table_is_an_error_of_the_data(tmp_path: Path) -> None:
    cut_parquet(tmp_path / "data")
    with pytest.raises(DataError):
        recognise(tmp_path / "data", Asked())
