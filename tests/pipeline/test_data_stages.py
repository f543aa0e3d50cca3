"""What `prepare` and `validate` say of a dataset: one line with the numbers, one for each fault."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from PIL import Image

from plumbline.errors import DataError
from plumbline.stages import detect_shapes, prepare, tokenize_text, validate

ROWS = "".join(f"café {i},b\n" if i % 4 == 0 else f"tea {i},a\n" for i in range(600))


@pytest.fixture
def said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    """A project with a Latin-1 table and two files that are none, and what is logged in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/all.csv").write_bytes(("text,label\n" + ROWS).encode("latin-1"))
    (tmp_path / "data/more.tsv").touch()
    (tmp_path / "data/_notes.csv").touch()
    caplog.set_level(logging.INFO)
    return caplog


def configure(prepare: dict[str, Any], validate: dict[str, Any]) -> None:
    columns = {"text": "text", "label": "label"}
    dataset = {
        "path": "data",
        "weights": "data/.gitkeep",
        "prepare": {"source": "csv", "columns": columns, **prepare},
        "validate": {"views": {"classify": ["text", "label"]}, **validate},
        "detect_shapes": {},
        "tokenize": {},
    }
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": {"reviews": dataset}}), "utf-8")


def test_a_dataset_without_rows_is_named_with_its_path(said: pytest.LogCaptureFixture) -> None:
    Path("data/all.csv").write_text("text,label\n", encoding="utf-8")
    configure({}, {})
    with pytest.raises(DataError, match=r"^dataset reviews, at data, has zero rows; check"):
        prepare.main(["reviews"])


def test_what_is_lost_is_said_by_each_stage_in_one_line(said: pytest.LogCaptureFixture) -> None:
    configure({}, {"max_dropped_share": 0.5, "split": {"val": 0.0, "test": 0.0}})
    prepare.main(["reviews"])
    validate.main(["reviews"])
    assert said.messages == [
        "prepare reviews: 1 files passed over: hidden, since a name in their path begins with . or "
        "_, the first: _notes.csv; rename them to have them read",
        "prepare reviews: 1 files passed over: not named *.csv, the first: more.tsv; take them "
        "out, or change the source's settings",
        "prepare reviews: 150 rows hold bytes that are not utf-8, the first: all.csv:1; set "
        "encoding to what the file is written in, such as latin-1 or cp1252",
        "prepare reviews: 600 rows, 2 files passed over, 150 rows with faults; see "
        "work/raw/reviews/account.json",
        "validate reviews: 600 rows, 450 clean, 150 quarantined (bad_encoding 150); see "
        "work/quarantine/reviews/report.json",
    ]
    account = json.loads(Path("work/raw/reviews/account.json").read_text(encoding="utf-8"))
    report = json.loads(Path("work/quarantine/reviews/report.json").read_text(encoding="utf-8"))
    assert report["source"] == account
    assert [one["count"] for one in account["passed_over"] + account["with_faults"]] == [1, 1, 150]


def test_a_quarter_of_faulty_rows_is_refused_by_reason_with_its_account(
    said: pytest.LogCaptureFixture,
) -> None:
    configure({}, {})
    prepare.main(["reviews"])
    with pytest.raises(DataError, match=r"150 of 600 rows lost to faults.*bad_encoding 150"):
        validate.main(["reviews"])
    failed = json.loads(Path("work/quarantine/reviews.failed.json").read_text(encoding="utf-8"))
    assert failed["source"]["with_faults"][0]["remedy"].startswith("set encoding to")
    assert not Path("work/quarantine/reviews").exists()


def test_the_declared_encoding_loses_nothing(said: pytest.LogCaptureFixture) -> None:
    configure({"encoding": "latin-1"}, {"split": {"val": 0.1, "test": 0.1}})
    prepare.main(["reviews"])
    validate.main(["reviews"])
    assert said.messages[-1].startswith("validate reviews: 600 rows, 600 clean, 0 quarantined; see")
    warned = [line for line in said.messages if line.startswith("validate reviews: no split")]
    assert len(warned) == 2  # what is drawn for test and for val


@pytest.mark.parametrize(("brightest", "warns"), [(3, True), (15, True), (16, False), (255, False)])
def test_images_of_a_few_levels_are_said(
    said: pytest.LogCaptureFixture, brightest: int, warns: bool
) -> None:
    configure({}, {})
    Path("work/clean/reviews").mkdir(parents=True)
    rows: dict[str, Any] = {"sample_id": [], "image": []}
    for at in range(2):
        buffer = io.BytesIO()
        Image.new("L", (4, 4), at * brightest).save(buffer, "PNG")
        rows["sample_id"].append(str(at))
        rows["image"].append(buffer.getvalue())
    pq.write_table(pa.table(rows), "work/clean/reviews/train.parquet")
    detect_shapes.main(["reviews"])
    tokenize_text.main(["reviews"])
    lines = [line for line in said.messages if line.startswith("tokenize_text reviews: all images")]
    assert [f"between 0 and {brightest} of" in line for line in lines] == [True] * warns


@pytest.mark.parametrize(("level", "warns"), [(0.9, False), (1.5, False), (20000.0, True)])
def test_sounds_that_were_never_scaled_are_said(
    said: pytest.LogCaptureFixture, level: float, warns: bool
) -> None:
    configure({}, {})
    Path("work/clean/reviews").mkdir(parents=True)
    rows: dict[str, Any] = {"sample_id": [], "audio": []}
    for at, most in enumerate((0.5, level)):
        buffer = io.BytesIO()
        samples = np.linspace(-most, most, 1600)
        soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
        rows["sample_id"].append(str(at))
        rows["audio"].append(buffer.getvalue())
    pq.write_table(pa.table(rows), "work/clean/reviews/train.parquet")
    detect_shapes.main(["reviews"])
    tokenize_text.main(["reviews"])
    lines = [line for line in said.messages if "go far beyond -1..1" in line]
    assert [line.startswith("tokenize_text reviews: 1 clip") for line in lines] == [True] * warns


def test_uneven_data_is_warned_of_by_the_stage_that_sees_it(
    said: pytest.LogCaptureFixture,
) -> None:
    configure({}, {"views": {"see": ["image", "label"]}})
    Path("work/clean/reviews").mkdir(parents=True)
    draw = np.random.default_rng(0)
    rows: dict[str, Any] = {"sample_id": [], "image": [], "label": []}
    for at in range(60):
        buffer = io.BytesIO()
        pixels = draw.integers(0, 256, (4, 4, 3), np.uint8) if at != 7 else np.zeros((4, 4, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        rows["sample_id"].append(f"row-{at}")
        rows["image"].append(buffer.getvalue())
        rows["label"].append("rare" if at % 20 == 0 else "common")
    pq.write_table(pa.table(rows), "work/clean/reviews/train.parquet")
    detect_shapes.main(["reviews"])
    assert said.messages[:2] == [
        "reviews: labels are imbalanced: 'common' has 57 training rows, 'rare' 3; weigh the "
        "classes, and look at macro F1 beside accuracy",
        "reviews: 1 of 2 classes have fewer than 10 training rows",
    ]
    tokenize_text.main(["reviews"])
    assert (
        "tokenize_text reviews: images of one colour in train: 1, the first in row row-7; nothing "
        "can be learned of them"
    ) in said.messages
    clean, cached = (
        json.loads(Path(f"work/distributions/{of}/reviews/distributions.json").read_text("utf-8"))
        for of in ("clean", "cache")
    )
    assert [one["value"] for one in clean["proposals"]] == [[32, 32], 8, "balanced"]
    assert cached["constant"] == {"image": {"train": {"media": 1, "first": "row-7"}}}


def test_views_of_another_name_change_nothing_that_trainings_read(
    said: pytest.LogCaptureFixture,
) -> None:
    """Else words for people would train everything again."""
    digests = []
    for name in ("classify", "judge"):
        configure({"encoding": "latin-1"}, {"views": {name: ["text", "label"]}})
        for stage in (prepare, validate, detect_shapes, tokenize_text):
            stage.main(["reviews"])
        places = ("shapes", "cache", "distributions/clean")
        digests.append(
            {place: Path(f"work/{place}/reviews/digests.json").read_bytes() for place in places}
        )
    before, after = digests
    assert before["shapes"] == after["shapes"]
    assert before["cache"] == after["cache"]
    assert before["distributions/clean"] != after["distributions/clean"]
