import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from plumbline.config import Config, check_config
from plumbline.data.byte_columns import DistinctCells
from plumbline.data.columns import CANONICAL
from plumbline.errors import ConfigError, DataError
from plumbline.validation import cells as cells_module
from plumbline.validation import filing
from plumbline.validation import validate as validation
from plumbline.validation.cells import CellRules, CleanCells
from plumbline.validation.report import Report
from plumbline.validation.settings import ValidationConfig
from tests.validation.validation_run import (
    ALL_VIEW,
    NO_VAL,
    TWO_VIEWS,
    Row,
    Run,
    failure,
    good,
    png,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


FAULTS: dict[str, tuple[Row, str]] = {
    "null image": ({"image": None}, "null_image"),
    "empty image": ({"image": b""}, "null_image"),
    "truncated image": ({"image": png(0)[:-20]}, "bad_image"),
    "html for an image": ({"image": b"<html>not found</html>"}, "bad_image"),
    "too many pixels": (
        {"image": png(0)[:16] + b"\0\0\xff\xff" * 2 + png(0)[24:]},
        "image_too_large",
    ),
    "too many bytes": ({"image": png(0) + bytes(70_000)}, "image_too_large"),
    "null caption": ({"caption": None}, "null_text"),
    "empty caption": ({"caption": ""}, "empty_text"),
    "blank question": ({"question": " \u00a0\u200b\n"}, "empty_text"),
    "caption not utf-8": ({"caption": b"caf\xe9"}, "bad_encoding"),
    "answer with surrogates": ({"answer": b"\xed\xa0\x80"}, "bad_encoding"),
    "caption too long": ({"caption": "x" * 501}, "text_too_long"),
    "caption far too long": ({"caption": "x" * 5000}, "text_too_long"),
    "null id": ({"sample_id": None}, "missing_id"),
    "blank id": ({"sample_id": "\u3000"}, "missing_id"),
    "id not utf-8": ({"sample_id": b"row\xff"}, "bad_encoding"),
    "endless id": ({"sample_id": "i" * 70_000}, "unsafe_id"),
    "unknown split": ({"split": "holdout"}, "bad_split"),
    "same id": ({"sample_id": "row-0", "caption": "another"}, "duplicate_id"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_costs_its_row_and_no_other(name: str, run: Run) -> None:
    changes, reason = FAULTS[name]
    rows = [good(number) for number in range(6)]
    rows[3].update(changes)
    run.write(rows).validate(split=NO_VAL, max_image_bytes=60_000, max_text_chars=500)
    assert run.ids("train") == [f"row-{n}" for n in (0, 1, 2, 4, 5)]
    assert run.report["reasons"] == {reason: 1}
    (lost,) = pq.read_table(run.quarantine / "rows.parquet").to_pylist()
    assert (lost["file"], lost["row"], lost["reason"]) == ("part-0.parquet", 3, reason)
    assert run.report["examples"][reason][0]["row"] == 3


def test_the_first_rejected_rows_are_kept_with_what_they_hold(run: Run) -> None:
    """Five of a reason, texts and pictures up to a limit; the same whatever a batch holds."""
    rows = [good(number, caption="", question="q" * 1000) for number in range(8)]
    rows += [good(number) for number in range(8, 24)]
    rows[1]["image"] = png(1) + b"0" * 2**16
    run.write(rows).validate(split=NO_VAL, batch_rows=3)
    cells = pq.read_table(run.quarantine / "examples.parquet").to_pylist()
    assert sorted({cell["row"] for cell in cells}) == [0, 1, 2, 3, 4]
    by_column = {cell["column"]: cell for cell in cells if cell["row"] == 0}
    assert (by_column["caption"]["text"], by_column["caption"]["size"]) == ("", 0)
    assert (by_column["question"]["text"], by_column["question"]["size"]) == ("q" * 400, 1000)
    assert by_column["image"]["medium"] == rows[0]["image"]
    (large,) = [c for c in cells if c["row"] == 1 and c["column"] == "image"]
    assert (large["medium"], large["size"]) == (None, len(rows[1]["image"]))
    other = Run(run.raw.parent / "other").write(rows)
    other.validate(split=NO_VAL, batch_rows=100)
    first, second = ((one.quarantine / "examples.parquet").read_bytes() for one in (run, other))
    assert first == second


def test_bytes_that_are_no_text_are_kept_as_far_as_they_can_be_read(run: Run) -> None:
    run.write([good(0), good(1, caption=b"caf\xe9")]).validate(split=NO_VAL)
    cells = pq.read_table(run.quarantine / "examples.parquet").to_pylist()
    assert [c["text"] for c in cells if c["column"] == "caption"] == ["caf\ufffd"]


@pytest.mark.parametrize(
    "sample_id",
    ["../../escape", "/srv/absolute", 'a,b;"c"\nd', "nul\x00inside", "x" * 5000, "\u4f60\u597d"],
)
def test_odd_ids_are_kept_as_they_are(sample_id: str, run: Run) -> None:
    run.write([good(0, sample_id=sample_id), good(1, sample_id=sample_id)]).validate(split=NO_VAL)
    assert run.ids("train") == [sample_id]
    assert sorted(path.name for path in run.clean.iterdir()) == ["train.parquet"]
    shown = run.report["examples"]["duplicate_id"][0]["sample_id"]
    assert shown == sample_id[:200]
    assert json.loads(json.dumps(run.report)) == run.report


def test_a_row_stays_for_the_views_that_can_use_it(run: Run) -> None:
    rows = [
        good(0),
        good(1, caption="\u200b"),
        good(2, answer=None),
        good(3, caption=b"\xff", answer=None),
        good(4, image=b"no image"),
        good(5, caption=None),
    ]
    run.write(rows).validate(views=TWO_VIEWS, split=NO_VAL)
    assert run.ids("train") == ["row-0", "row-1", "row-2", "row-5"]
    assert [row["caption"] for row in run.rows("train")] == ["caption 0", None, "caption 2", None]
    assert [row["answer"] for row in run.rows("train")] == ["a thing", "a thing", None, "a thing"]
    assert run.lost() == {"row-3": "bad_encoding", "row-4": "bad_image"}
    assert run.report["blanked"] == {"caption": 1}
    assert run.report["views"] == {"caption": {"train": 2}, "qa": {"train": 3}}


def test_a_faulty_cell_is_blamed_before_one_that_is_merely_null(run: Run) -> None:
    row = good(1, image=png(1), caption="", question=None, answer=None)
    run.write([good(0), row]).validate(views=TWO_VIEWS, split=NO_VAL)
    assert run.lost() == {"row-1": "empty_text"}


def test_an_image_that_a_row_loses_is_no_leak(run: Run) -> None:
    views = {"caption": ["image", "caption"], "chat": ["question", "answer"]}
    rows = [good(n, image=b"the same garbage", split=("train", "val")[n]) for n in range(2)]
    run.write([*rows, good(2), good(3, split="val")]).validate(views=views)
    assert run.lost() == {}
    assert run.report["blanked"] == {"image": 2}
    assert run.rows("val")[0]["image"] is None


def test_text_at_the_limit_is_kept_however_many_bytes_it_has(run: Run) -> None:
    run.write([good(0, caption="\U0001f600" * 50)]).validate(max_text_chars=50, split=NO_VAL)
    assert run.ids("train") == ["row-0"]


def test_text_is_cleaned_and_every_change_is_counted(run: Run) -> None:
    rows = [
        good(0, caption="caf\u0065\u0301"),
        good(1, caption="\ufeffa\x00b"),
        good(2, caption="\ufeffa\x00b"),
        good(3, caption="untouched \u200d"),
    ]
    run.write(rows).validate(split=NO_VAL)
    captions = [row["caption"] for row in run.rows("train")]
    assert captions == ["caf\u00e9", "ab", "ab", "untouched \u200d"]
    assert run.report["cleaned"] == {"caption": {"nfc": 1, "bom": 2, "control": 2}}


def test_texts_that_are_clean_as_they_came_are_looked_at_in_one_pass(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[bytes] = []

    def clean_cells(cells: DistinctCells, rules: CellRules) -> CleanCells:
        looked_at.extend(map(cells.value, range(len(cells.starts))))
        return cells_module.clean_cells(cells, rules)

    monkeypatch.setattr(filing, "clean_cells", clean_cells)
    rows = [good(number, caption=f"caf\u00e9 {number}") for number in range(8)]
    run.write(rows).validate(split=NO_VAL)
    assert looked_at == []
    assert [row["caption"] for row in run.rows("train")] == [row["caption"] for row in rows]
    assert run.report["cleaned"] == {}


def test_a_faulty_row_does_not_take_the_place_of_a_good_one(run: Run) -> None:
    rows = [
        good(0, sample_id="same", caption=""),
        good(1, sample_id="same"),
        good(2, split="val", caption=""),
        good(2, sample_id="train has the image of the faulty row"),
        good(3, split="val"),
    ]
    run.write(rows).validate()
    assert run.ids("train") == ["same", "train has the image of the faulty row"]
    assert run.report["reasons"] == {"empty_text": 2}


@pytest.mark.parametrize("rows", [[], [good(0, image=None), good(1, caption="")]])
def test_no_valid_rows_is_an_error_with_the_report(rows: list[Row], run: Run) -> None:
    run.write([*rows, good(9)])
    table = pq.read_table(run.raw / "part-0.parquet").slice(0, len(rows))
    pq.write_table(table, run.raw / "part-0.parquet")
    error = failure(run)
    assert f"no valid rows ({len(rows)} rows read" in str(error)
    assert error.report["rows_quarantined"] == len(rows)
    assert len(run.lost()) == len(rows)


def test_a_view_without_a_valid_row_is_an_error(run: Run) -> None:
    run.write([good(n, answer=None) for n in range(4)])
    assert "view qa has no valid row" in str(failure(run, views=TWO_VIEWS))


def test_more_faults_than_allowed_are_an_error_with_the_counts(run: Run) -> None:
    run.write([good(n, caption="" if n < 3 else "fine") for n in range(5)])
    error = failure(run, max_dropped_share=0.5)
    assert "3 of 5 rows lost to faults, more than max_dropped_share 0.5" in str(error)
    assert "empty_text 3" in str(error)
    other = Run(run.raw.parent / "other")
    other.raw = run.raw
    other.validate(max_dropped_share=0.6, split=NO_VAL)


def test_repeated_ids_do_not_count_as_lost(run: Run) -> None:
    run.write([good(n, sample_id="one for all") for n in range(24)])
    run.validate(max_dropped_share=0.5)
    assert run.report["rows_clean"] == {"train": 1}
    assert run.report["reasons"] == {"duplicate_id": 23}


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
@pytest.mark.parametrize("row_group_size", [2, 1000])
def test_output_does_not_depend_on_how_rows_are_batched(
    batch_rows: int, row_group_size: int, tmp_path: Path
) -> None:
    rows = [
        *(good(n, split=None, image=png(n // 3)) for n in range(40)),
        *(good(n, split=None, image=png(n)) for n in range(20)),
        good(90, split=None, image=b"II*\x00broken"),
        good(91, split=None, caption=b"\xff"),
    ]
    runs = [Run(tmp_path / name) for name in ("one", "two")]
    for each, group_rows in zip(runs, (500, row_group_size), strict=True):
        each.write(rows[:31], "part-0", row_group_size=group_rows)
        each.write(rows[31:], "part-1", row_group_size=group_rows)
    runs[0].validate(views=TWO_VIEWS)
    runs[1].validate(views=TWO_VIEWS, batch_rows=batch_rows)
    assert runs[0].report == runs[1].report
    assert runs[0].files() == runs[1].files()


def test_rows_add_up_for_every_file(run: Run) -> None:
    run.write([good(n, caption=None if n % 3 == 0 else "c") for n in range(10)], "part-0")
    run.write([good(n) for n in range(5, 15)], "part-1")
    run.validate()
    assert run.report["files"] == {
        "part-0.parquet": {"rows_in": 10, "rows_clean": 6, "rows_quarantined": 4},
        "part-1.parquet": {"rows_in": 10, "rows_clean": 7, "rows_quarantined": 3},
    }
    assert run.report["rows_in"] == sum(run.report["rows_clean"].values()) + len(run.lost())


def test_equal_rows_have_equal_digests_and_others_have_not(run: Run) -> None:
    rows = [
        good(0, caption="", question="q", answer="a"),
        good(0, caption="", question="q", answer="a"),
        good(0, caption="", question="qa", answer=""),
        good(0, caption=None, question="q", answer="a"),
        good(0, caption="", question="q\x01a", answer="b"),
        good(0, caption="", question="q", answer="a\x01b"),
        good(9),
    ]
    run.write(rows).validate(split=NO_VAL)
    digests = pq.read_table(run.quarantine / "rows.parquet")["sha256"].to_pylist()
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_each_distinct_image_is_decoded_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    real: Callable[..., Any] = Image.open

    def count(file: io.BytesIO, **options: Any) -> Any:
        decoded.append(file.getvalue())
        return real(file, **options)

    monkeypatch.setattr(Image, "open", count)
    rows = [good(n, image=png(n % 4)) for n in range(40)]
    run.write(rows).validate(batch_rows=7)
    assert len(decoded) == 4
    Run(run.raw.parent / "header").write(rows).validate(level="header")
    assert len(decoded) == 4


def test_nothing_but_the_tables_is_left_behind(run: Run) -> None:
    run.write([good(n) for n in range(30)]).validate()
    assert sorted(path.name for path in run.clean.iterdir()) == ["train.parquet", "val.parquet"]
    names = sorted(path.name for path in run.quarantine.iterdir())
    assert names == ["examples.parquet", "rows.parquet"]
    schema = pq.read_schema(run.clean / "train.parquet")
    names = ["sample_id", "group", "image", "caption", "question", "answer"]
    assert schema.equals(pa.schema([(name, CANONICAL[name]) for name in names]))


def test_only_columns_that_a_view_needs_are_read(run: Run) -> None:
    run.write([good(n, answer=b"\xff") for n in range(4)])
    run.validate(views={"caption": ["caption", "image"]}, split=NO_VAL)
    assert pq.read_schema(run.clean / "train.parquet").names[2:] == ["image", "caption"]
    assert run.lost() == {}


def test_a_missing_column_and_a_damaged_page_are_errors_that_name_the_file(run: Run) -> None:
    run.write([good(0)]).write([{"sample_id": "a", "image": png(0)}], "part-1")
    with pytest.raises(DataError, match=r"part-1\.parquet: .*caption is missing"):
        run.validate()
    assert list(run.quarantine.iterdir()) == []


class Whole(Config):
    validation: ValidationConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": {}}, "at least one view"),
        ({"views": {"a": []}}, "view a must name columns"),
        ({"views": {"a": ["image", "captoin"]}}, "no column 'captoin'"),
        ({"views": {"a": ["image", "audio"]}}, "image and audio, of which a row has one"),
        ({"views": {"a": ["label"]}, "labels": {"": []}}, "part '' must name labels"),
        ({"views": {"a": ["label"]}, "labels": {"": ["x", "x"]}}, "each of them once"),
        ({"views": {"a": ["label"]}, "labels": {"": ["\x00"]}}, "not what clean data can hold"),
        ({"labels": {"": ["a"]}}, "no view has the column label"),
        ({"channels": 3}, "no view has the column features"),
        ({"min_audio_s": 3.0, "max_audio_s": 2.0}, "min_audio_s 3.0 is above max_audio_s 2.0"),
        ({"max_dropped_share": 1.5}, "max_dropped_share"),
        ({"level": "deep"}, "level"),
        ({"split": {"val": 0.5, "test": 0.5}}, "leave nothing for train"),
        ({"split": {"min_row": 3}}, "did you mean min_rows"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Row, message: str) -> None:
    section = {"validation": {"views": ALL_VIEW, **settings}}
    with pytest.raises(ConfigError, match=message):
        check_config(Whole, {"validation": "validation"}, section)


@pytest.mark.parametrize("where", ["in total", "in a file"])
def test_an_account_that_does_not_add_up_is_never_given(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(*given: Any) -> Report:
        report = whole(*given)
        lost = report if where == "in total" else report["files"]["part-0.parquet"]
        lost["rows_quarantined"] -= 1
        return report

    whole = validation._describe
    monkeypatch.setattr(validation, "_describe", describe)
    run = Run(tmp_path).write([good(0), good(1, image=None)])
    with pytest.raises(AssertionError, match="rows do not add up"):
        run.validate(split=NO_VAL)
