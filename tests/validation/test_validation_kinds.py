"""Rows of audio, features, labels, values and parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from plumbline.data.arrays import encode_array
from plumbline.data.columns import CANONICAL
from plumbline.errors import DataError
from plumbline.validation import judging
from tests.validation.clips import clip, encode, patch, tone
from tests.validation.validation_run import NO_VAL, Row, Run, failure, png

CLIPS = {"clips": ["audio", "label"]}
SERIES = {"series": ["features", "value"]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def spoken(number: int, **changes: Any) -> Row:
    row = {"sample_id": f"row-{number}", "split": "train", "audio": clip(number)}
    return {**row, "label": str(number % 3), **changes}


def series(number: int, **changes: Any) -> Row:
    row = {"sample_id": f"row-{number}", "split": "train", "features": array(number)}
    return {**row, "value": repr(number / 4), **changes}


def array(number: int, steps: int = 4, channels: int = 3) -> bytes:
    return encode_array(np.arange(steps * channels).reshape(steps, channels) + float(number))


def quarantined(run: Run) -> list[Row]:
    rows: list[Row] = pq.read_table(run.quarantine / "rows.parquet").to_pylist()
    return rows


AUDIO_FAULTS: dict[str, tuple[Row, str, str]] = {
    "null clip": ({"audio": None}, "null_audio", "audio: null"),
    "empty clip": ({"audio": b""}, "null_audio", "zero bytes"),
    "truncated clip": ({"audio": clip(3)[:-9]}, "bad_audio", "cut off"),
    "header only": ({"audio": clip(3)[:44]}, "bad_audio", "cut off"),
    "rate 0": ({"audio": patch(clip(3), 24, "<I", 0)}, "bad_audio", "1 channels at 0 Hz"),
    "image for a clip": ({"audio": png(3)}, "bad_audio", "no known audio format"),
    "long clip": ({"audio": encode(tone(1.5))}, "audio_too_large", "1.500 s, allowed are 1 s"),
    "large clip": ({"audio": clip(3) + bytes(70_000)}, "audio_too_large", "bytes, allowed"),
    "short clip": ({"audio": encode(tone(0.02))}, "audio_too_short", "shortest is 0.04 s"),
    "null label": ({"label": None}, "null_label", "label: null"),
    "blank label": ({"label": " "}, "null_label", "only blanks"),
    "label not utf-8": ({"label": b"\xe9"}, "bad_label", "not UTF-8"),
    "label out of range": ({"label": "3"}, "bad_label", "'3' is none of the 3"),
    "negative label": ({"label": "-1"}, "bad_label", "'-1' is none of the 3"),
    "endless label": ({"label": "x" * 70_000}, "bad_label", "70000 bytes"),
    "part not utf-8": ({"part": b"\xff"}, "bad_encoding", "part: not UTF-8"),
    "endless part": ({"part": "p" * 70_000}, "unsafe_id", "part: longer than"),
}


@pytest.mark.parametrize("name", AUDIO_FAULTS)
def test_a_planted_fault_of_a_clip_costs_its_row_and_no_other(name: str, run: Run) -> None:
    changes, reason, detail = AUDIO_FAULTS[name]
    rows = [spoken(number) for number in range(6)]
    rows[3].update(changes)
    limits = {"min_audio_s": 0.04, "max_audio_s": 1.0, "max_audio_bytes": 60_000}
    run.write(rows).validate(views=CLIPS, split=NO_VAL, labels={"": ["0", "1", "2"]}, **limits)
    assert run.ids("train") == [f"row-{n}" for n in (0, 1, 2, 4, 5)]
    assert run.report["reasons"] == {reason: 1}
    (lost,) = quarantined(run)
    assert detail in lost["detail"]


FEATURE_FAULTS: dict[str, tuple[Row, str, str]] = {
    "null features": ({"features": None}, "null_features", "features: null"),
    "nan": ({"features": encode_array([[1.0, float("nan"), 0.0]])}, "bad_features", "NaN"),
    "ragged": ({"features": encode_array([[1.0], [1.0, 2.0]])}, "bad_features", "inhomogeneous"),
    "no step": ({"features": encode_array(np.ones((0, 3)))}, "empty_features", "(0, 3)"),
    "too many steps": ({"features": array(3, steps=6)}, "features_too_long", "6 steps"),
    "too many bytes": ({"features": array(3, steps=999)}, "features_too_long", "allowed are 9000"),
    "other channels": ({"features": array(3, channels=2)}, "bad_features", "2 channels, where"),
    "null value": ({"value": None}, "null_value", "value: null"),
    "value not a number": ({"value": "NA"}, "bad_value", "'NA' is no finite"),
    "value nan": ({"value": "nan"}, "bad_value", "'nan' is no finite"),
    "endless value": ({"value": "1" * 1000}, "bad_value", "1000 bytes"),
}


@pytest.mark.parametrize("name", FEATURE_FAULTS)
def test_a_planted_fault_of_features_costs_its_row_and_no_other(name: str, run: Run) -> None:
    changes, reason, detail = FEATURE_FAULTS[name]
    rows = [series(number) for number in range(6)]
    rows[3].update(changes)
    run.write(rows).validate(views=SERIES, split=NO_VAL, max_steps=5, max_features_bytes=9000)
    assert run.ids("train") == [f"row-{n}" for n in (0, 1, 2, 4, 5)]
    assert run.report["reasons"] == {reason: 1}
    (lost,) = quarantined(run)
    assert detail in lost["detail"]


@pytest.mark.parametrize(("channels", "kept"), [(None, [1, 3]), (2, [1, 3]), (3, [2, 4])])
def test_the_first_good_features_or_the_setting_give_the_channels(
    channels: int | None, kept: list[int], run: Run
) -> None:
    widths = [4, 2, 3, 2, 3]
    rows = [series(n, features=array(n, channels=width)) for n, width in enumerate(widths)]
    rows[0]["features"] = array(0, channels=4)[:-1]
    run.write(rows).validate(views=SERIES, split=NO_VAL, channels=channels, batch_rows=2)
    assert run.ids("train") == [f"row-{n}" for n in kept]


def test_values_are_written_as_the_shortest_text_of_their_float(run: Run) -> None:
    run.write([series(0, value="1e3"), series(1, value=" 0.10")])
    run.validate(views=SERIES, split=NO_VAL)
    assert [row["value"] for row in run.rows("train")] == ["1000.0", "0.1"]


def test_labels_are_cleaned_like_texts_and_compared_in_their_clean_form(run: Run) -> None:
    run.write([spoken(0, label="cafe\u0301"), spoken(1, label="tea")])
    run.validate(views=CLIPS, split=NO_VAL, labels={"": ["caf\u00e9", "tea"]})
    assert [row["label"] for row in run.rows("train")] == ["caf\u00e9", "tea"]
    assert run.report["cleaned"] == {"label": {"nfc": 1}}


def spoken_parts(count: int, **changes: Any) -> list[Row]:
    """The same clips twice: what is said, and who says it."""
    digits = [spoken(n, part="digit", label=str(n % 10), **changes) for n in range(count)]
    return [*digits, *(spoken(n, part="speaker", label="anna", **changes) for n in range(count))]


def test_an_id_is_unique_within_its_part(run: Run) -> None:
    rows = [*spoken_parts(3), spoken(1, part="speaker", label="ben"), spoken(2)]
    run.write([*rows, spoken(2, part="")]).validate(views=CLIPS, split=NO_VAL)
    assert run.report["reasons"] == {"duplicate_id": 2}
    (repeated, unnamed) = quarantined(run)
    assert repeated["detail"] == "the same sample_id as row 4 of part-0.parquet"
    assert unnamed["detail"] == "the same sample_id as row 7 of part-0.parquet"
    assert run.report["parts"] == {
        "digit": {"train": 3},
        "speaker": {"train": 3, "quarantined": 1},
        "": {"train": 1, "quarantined": 1},
    }
    assert {row["part"] for row in run.rows("train")} == {"digit", "speaker", ""}


def test_an_id_in_two_splits_leaks_within_its_part_alone(run: Run) -> None:
    rows = [
        spoken(0, sample_id="a", part="digit"),
        spoken(1, sample_id="b", part="digit"),
        spoken(2, sample_id="a", part="speaker", split="test"),
        spoken(3, sample_id="b", part="digit", split="test"),
    ]
    run.write(rows).validate(views=CLIPS)
    assert run.lost() == {"b": "split_leak"}
    assert (run.ids("train"), run.ids("test")) == (["a"], ["a", "b"])


def test_each_part_has_labels_of_its_own(run: Run) -> None:
    rows = [
        spoken(0, part="digit", label="1"),
        spoken(1, part="digit", label="anna"),
        spoken(2, part="speaker", label="anna"),
        spoken(3, part="speaker", label="1"),
        spoken(4, label="anything"),
        spoken(5, part="digit", label=None),
    ]
    labels = {"digit": ["1", "2"], "speaker": ["anna"]}
    run.write(rows).validate(views=CLIPS, split=NO_VAL, labels=labels)
    assert run.lost() == {"row-1": "bad_label", "row-3": "bad_label", "row-5": "null_label"}


def test_labels_of_a_part_that_no_row_names_are_refused(run: Run) -> None:
    run.write(spoken_parts(3))
    message = str(failure(run, views=CLIPS, labels={"digits": ["1"]}))
    assert "labels names part 'digits', but no row does; the parts are: digit, speaker" in message


def test_a_column_of_more_parts_than_a_dataset_has_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MAX_PARTS", 5)
    run.write([spoken(n, part=f"part-{n}") for n in range(6)])
    with pytest.raises(DataError, match="part has more than 5 names"):
        run.validate(views=CLIPS)


def test_clean_tables_have_the_part_where_rows_have_one(run: Run, tmp_path: Path) -> None:
    run.write(spoken_parts(2)).validate(views=CLIPS, split=NO_VAL)
    names = ["sample_id", "group", "part", "audio", "label"]
    schema = pa.schema([(name, CANONICAL[name]) for name in names])
    assert pq.read_schema(run.clean / "train.parquet").equals(schema)
    unnamed = Run(tmp_path / "unnamed").write([spoken(0, part=""), spoken(1, part=None)])
    unnamed.validate(views=CLIPS, split=NO_VAL)
    assert "part" not in pq.read_schema(unnamed.clean / "train.parquet").names
    assert "parts" not in unnamed.report


MEDIA_ROWS: dict[str, Callable[..., Row]] = {"audio": spoken, "features": series}


@pytest.mark.parametrize("column", MEDIA_ROWS)
def test_a_medium_in_two_splits_leaks_and_in_two_parts_of_one_split_does_not(
    column: str, run: Run
) -> None:
    make = MEDIA_ROWS[column]
    same = {column: make(0)[column]}
    rows = [
        make(0, part="a", split="test"),
        make(0, part="b", split="test"),
        make(1, part="b", **same),
        make(2, part="a"),
    ]
    run.write(rows).validate(views={"all": [column, *({"label", "value"} & set(rows[0]))]})
    assert run.lost() == {"row-1": "split_leak"}
    assert quarantined(run)[0]["detail"] == f"the same {column} as row 0 of part-0.parquet"


def test_without_groups_rows_of_one_clip_stay_together_when_splits_are_drawn(run: Run) -> None:
    rows = spoken_parts(60, split=None)
    run.write(rows).validate(views=CLIPS)
    assert run.lost() == {}
    splits = {name: run.rows(name) for name in ("train", "val")}
    train, val = ({row["audio"] for row in rows} for rows in splits.values())
    assert val
    assert not train & val
    assert all(row["group"].startswith("audio:") for row in splits["val"])


def test_rows_of_text_and_label_need_no_medium(run: Run) -> None:
    rows = [{"sample_id": f"row-{n}", "text": f"line {n}", "label": str(n % 2)} for n in range(20)]
    rows[4]["text"], rows[5]["label"] = "\u200b", None
    run.write(rows).validate(views={"labelled": ["text", "label"]})
    assert run.lost() == {"row-4": "empty_text", "row-5": "null_label"}
    assert sum(run.report["rows_clean"].values()) == 18


def test_a_row_with_two_media_is_refused(run: Run) -> None:
    views = {"seen": ["image", "label"], "heard": ["audio", "label"]}
    rows = [spoken(0), spoken(1, audio=None, image=png(1)), spoken(2, image=png(2))]
    run.write([*rows, spoken(3, image=b"damaged")]).validate(views=views, split=NO_VAL)
    assert run.lost() == {"row-2": "two_media"}
    assert run.ids("train") == ["row-0", "row-1", "row-3"]


def test_equal_bytes_in_columns_of_two_kinds_are_judged_on_their_own(run: Run) -> None:
    views = {"seen": ["image", "label"], "heard": ["audio", "label"]}
    rows = [spoken(0, image=None), spoken(1, audio=None, image=png(1))]
    rows += [spoken(2, audio=png(1), image=None), spoken(3, audio=None, image=clip(0))]
    run.write(rows).validate(views=views, split=NO_VAL)
    assert run.lost() == {"row-2": "bad_audio", "row-3": "bad_image"}


def test_each_distinct_clip_is_decoded_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    real = soundfile.SoundFile

    def count(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(file.getvalue())
        return real(file, *arguments, **options)

    run.write([spoken(n, audio=clip(n % 4)) for n in range(40)])
    monkeypatch.setattr(soundfile, "SoundFile", count)
    run.validate(views=CLIPS, batch_rows=7)
    assert len(opened) == 8  # the header and the samples of four clips


def mixed_rows() -> list[Row]:
    """Rows of all kinds with a fault of most kinds among them."""
    rows = [
        *spoken_parts(30, split=None),
        *(series(n, part="sensor", split=None) for n in range(30)),
        *(
            {"sample_id": f"row-{n}", "image": png(n), "label": "x", "part": "pictures"}
            for n in range(20)
        ),
        *({"sample_id": f"text-{n}", "text": f"text {n}", "label": "y"} for n in range(10)),
    ]
    rows[3]["audio"] = clip(3)[:-7]
    rows[33]["audio"] = clip(3)[:-7]
    rows[7]["label"] = "ten"
    rows[64]["features"] = array(4, channels=2)
    rows[65]["features"] = encode_array([[float("nan")] * 3])
    rows[70]["value"] = "nan"
    rows[95]["image"] = b"II*\x00broken"
    rows[112]["text"] = "\u200b"
    return [*rows, *spoken_parts(2, split=None)]


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
@pytest.mark.parametrize("row_group_size", [2, 1000])
def test_output_of_all_kinds_does_not_depend_on_how_rows_are_batched(
    batch_rows: int, row_group_size: int, tmp_path: Path
) -> None:
    rows = [{**dict.fromkeys(CANONICAL), **row} for row in mixed_rows()]
    views = {**CLIPS, **SERIES, "seen": ["image", "label"], "read": ["text", "label"]}
    labels = {"digit": [str(n) for n in range(10)]}
    runs = [Run(tmp_path / name) for name in ("one", "two")]
    for each, group_rows, size in zip(runs, (500, row_group_size), (500, batch_rows), strict=True):
        each.write(rows[:61], "part-0", row_group_size=group_rows)
        each.write(rows[61:], "part-1", row_group_size=group_rows)
        each.validate(views=views, labels=labels, batch_rows=size)
    assert runs[0].report == runs[1].report
    assert runs[0].files() == runs[1].files()
    assert runs[0].report["reasons"] == {
        "bad_audio": 2,
        "bad_label": 1,
        "bad_features": 2,
        "bad_value": 1,
        "bad_image": 1,
        "empty_text": 1,
        "duplicate_id": 4,
    }
    assert runs[0].report["rows_in"] == len(rows)


def test_a_view_loses_a_faulty_label_and_another_keeps_the_row(run: Run) -> None:
    views = {"clips": ["audio", "label"], "spoken": ["audio", "caption"]}
    rows = [spoken(n, caption="a digit") for n in range(3)]
    rows[1]["label"] = "9"
    run.write(rows).validate(views=views, labels={"": ["0", "1", "2"]}, split=NO_VAL)
    assert [row["label"] for row in run.rows("train")] == ["0", None, "2"]
    assert run.report["blanked"] == {"label": 1}
