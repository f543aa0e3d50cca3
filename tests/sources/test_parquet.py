"""Somebody's Parquet files arrive in the canonical columns, cell by cell as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from plumbline.data.arrays import decode_array, encode_array
from plumbline.data.columns import CANONICAL
from plumbline.errors import ConfigError, DataError
from plumbline.sources.caption_rules import CaptionRule
from plumbline.sources.parquet import ParquetSource

QA = {
    "id": ["1", "2", "3", "4"],
    "img": [b"a", b"b", None, b""],
    "q": ["is there a red circle?", "what shape is it?", "is there a dog?", None],
    "a": ["yes", "square", "no", "yes"],
}
QA_COLUMNS = {"sample_id": "id", "image": "img", "question": "q", "answer": "a"}


def write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    source = ParquetSource.model_validate({"source": "parquet", **settings})
    batches = list(source.read(path))
    for batch in batches:
        for field in batch.schema:
            assert field.type == CANONICAL[field.name]
    return [row for batch in batches for row in batch.to_pylist()]


def test_columns_are_renamed_and_cells_pass_through(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", QA)
    rows = read(tmp_path / "data", columns=QA_COLUMNS)
    assert rows == [
        dict(zip(("sample_id", "image", "question", "answer"), values, strict=True))
        for values in zip(QA["id"], QA["img"], QA["q"], QA["a"], strict=True)
    ]


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.parquet", {"id": [f"{name}1", f"{name}2"]})
    rows = read(tmp_path, columns={"sample_id": "id"})
    assert [row["sample_id"] for row in rows] == ["a1", "a2", "b1", "b2"]
    assert read(tmp_path / "b.parquet", columns={"sample_id": "id"}) == rows[2:]


def test_splits_come_from_files_or_folders(tmp_path: Path) -> None:
    write(tmp_path / "train/x.parquet", {"id": ["1"]})
    write(tmp_path / "held_out.parquet", {"id": ["2"]})
    splits = {"train": "train", "test": "held_out.parquet"}
    rows = read(tmp_path, columns={"sample_id": "id"}, splits=splits)
    assert rows == [
        {"sample_id": "1", "split": "train"},
        {"sample_id": "2", "split": "test"},
    ]


def test_the_first_rule_that_fits_makes_the_caption(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", QA)
    rules = [
        {"question": r"is there (a .+)\?", "answer": "yes", "caption": r"there is \1"},
        {"question": r"what shape .+\?", "caption": "there is a {answer}"},
        {"question": r"what .+\?", "caption": "never reached"},
    ]
    rows = read(tmp_path, columns=QA_COLUMNS, captions=rules)
    assert [row["caption"] for row in rows] == [
        "there is a red circle",
        "there is a square",
        None,
        None,
    ]


def test_text_that_is_not_utf8_reaches_validation_as_it_is(tmp_path: Path) -> None:
    raw = pa.array([b"caf\xe9", b"fine"], pa.binary())
    columns = {"id": ["1", "2"], "q": raw.view(pa.string()), "a": ["yes", "yes"]}
    write(tmp_path / "a.parquet", columns)
    source = ParquetSource(
        source="parquet",
        columns={"sample_id": "id", "question": "q", "answer": "a"},
        captions=[CaptionRule(question=".+", caption="something")],
    )
    (batch,) = source.read(tmp_path)
    assert batch.column("question").view(pa.binary()).to_pylist() == [b"caf\xe9", b"fine"]
    assert batch.column("caption").to_pylist() == [None, "something"]


def test_a_missing_path_names_it_and_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder.*PLUMBLINE_DATA"):
        read(tmp_path / "nowhere", columns={"sample_id": "id"})


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"id": ["1"]})
    with pytest.raises(DataError, match=r"val\.parquet"):
        read(tmp_path, columns={"sample_id": "id"}, splits={"val": "val.parquet"})


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": ["1"]})
    with pytest.raises(DataError, match="img"):
        read(tmp_path, columns={"sample_id": "id", "image": "img"})


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read(tmp_path, columns={"sample_id": "id"})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"columns": {"sample_id": "id", "picture": "x"}}, "unknown canonical column 'picture'"),
        ({"columns": {}}, "columns must name one column"),
        ({"columns": {"sample_id": "id"}, "splits": {"dev": "x"}}, "unknown split 'dev'"),
        (
            {
                "columns": {"sample_id": "id"},
                "captions": [{"question": "(", "caption": "x"}],
            },
            "not a regular expression",
        ),
        (
            {
                "columns": {"sample_id": "id", "question": "q"},
                "captions": [{"question": ".+", "caption": "x"}],
            },
            "map both columns",
        ),
        (
            {"columns": {"sample_id": "id"}, "templates": {"caption": "a {label}"}},
            "template caption",
        ),
        ({"columns": {"sample_id": "id"}, "splits": {"val": "../v"}}, "below the dataset's path"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ParquetSource.model_validate({"source": "parquet", **settings})


def test_a_template_that_names_no_group_is_refused_before_any_row_is_read() -> None:
    with pytest.raises(ValidationError, match="caption"):
        CaptionRule(question="is there (.+)", caption=r"there is \2")


@pytest.mark.parametrize(
    ("column", "values", "cells"),
    [
        ("sample_id", pa.array([1, None], pa.int64()), ["1", None]),
        ("group", pa.array([1, 2], pa.uint8()), ["1", "2"]),
        ("caption", pa.array([5, None], pa.int64()), ["5", None]),
        ("label", pa.array([-1, 7], pa.int32()), ["-1", "7"]),
        ("label", pa.array([True, None, False]), ["true", None, "false"]),
        ("label", pa.array([3, 4, 3]).dictionary_encode(), ["3", "4", "3"]),
        ("value", pa.array([1, 2], pa.int16()), ["1", "2"]),
        ("value", pa.array([0.1, float("nan"), 1e300]), ["0.1", "nan", "1e+300"]),
        ("value", pa.array([0.5, None], pa.float16()), ["0.5", None]),
        ("value", pa.array(["x", "1.50"]), ["x", "1.50"]),
    ],
)
def test_numbers_become_text(tmp_path: Path, column: str, values: Any, cells: list[Any]) -> None:
    ids = [str(number) for number in range(len(values))]
    write(tmp_path / "a.parquet", {"x": values, "id": ids})
    columns = {"sample_id": "id", "label": "id", column: "x"}
    rows = read(tmp_path, columns=columns)
    assert [row[column] for row in rows] == cells


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("text", pa.array([1.5])),
        ("text", pa.array([[1]])),
        ("sample_id", pa.array([True])),
        ("features", pa.array([0.5])),
        ("features", pa.array([["x"]])),
        ("features", pa.array([[[[1.0]]]])),
        ("image", pa.array([1])),
    ],
)
def test_what_a_column_cannot_hold_is_an_error(tmp_path: Path, column: str, values: Any) -> None:
    write(tmp_path / "a.parquet", {"x": values, "id": ["1"]})
    with pytest.raises(DataError, match=f"x is .*expected .*x {CANONICAL[column]}"):
        read(tmp_path, columns={"label": "id", "sample_id": "id", column: "x"})


def test_whole_floats_are_labels_and_a_gap_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": list("abcd"), "x": [0.0, 1.0, None, float("nan")]})
    rows = read(tmp_path, columns={"sample_id": "id", "label": "x"})
    assert [row["label"] for row in rows] == ["0", "1", None, None]


def test_a_number_that_is_not_whole_is_no_label(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": list("ab"), "x": [1.0, 0.5]})
    with pytest.raises(DataError, match=r"label holds 0\.5: .* map the column to value"):
        read(tmp_path, columns={"sample_id": "id", "label": "x"})


def test_folders_are_read_to_any_depth_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "more/z", "more/deep/a", "a", "_old/x", ".x/y", "more/_z"):
        write(tmp_path / f"{name}.parquet", {"id": [name], "t": [f"text of {name}"]})
    rows = read(tmp_path, columns={"sample_id": "id", "text": "t"})
    assert [row["sample_id"] for row in rows] == ["a", "b", "more/deep/a", "more/z"]
    rows = read(tmp_path, columns={"sample_id": "id", "text": "t"}, splits={"train": "more"})
    assert [row["sample_id"] for row in rows] == ["more/deep/a", "more/z"]


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "secret/a.parquet", {"id": ["1"], "t": ["secret"]})
    write(tmp_path / "data/b.parquet", {"id": ["2"], "t": ["ours"]})
    columns = {"sample_id": "id", "text": "t"}
    (tmp_path / "data/file.parquet").symlink_to(tmp_path / "secret/a.parquet")
    with pytest.raises(DataError, match=r"file\.parquet: a link that leaves the dataset's folder"):
        read(tmp_path / "data", columns=columns)
    with pytest.raises(DataError, match=r"file\.parquet: a link that leaves"):
        read(tmp_path / "data", columns=columns, splits={"train": "file.parquet"})
    (tmp_path / "data/file.parquet").unlink()
    (tmp_path / "data/folder").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"folder: a link that leaves"):
        read(tmp_path / "data", columns=columns)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.large_list(pa.int64())),
        pa.list_(pa.list_(pa.float64(), 2)),
        pa.list_(pa.list_(pa.float16(), 2), 2),
    ],
)
def test_lists_become_features(tmp_path: Path, kind: pa.DataType) -> None:
    # Arrow cannot read a null back from Parquet where a cell is a list of fixed size.
    missing = [] if pa.types.is_fixed_size_list(kind) else [None]
    cells = [[[1, 2], [3, 4]], *missing, [[5, 6], [7, 8]]]
    ids = [str(number) for number in range(len(cells))]
    write(tmp_path / "a.parquet", {"id": ids, "f": pa.array(cells, kind)})
    rows = read(tmp_path, columns={"sample_id": "id", "features": "f"})
    for row, cell in zip(rows, cells, strict=True):
        if cell is None:
            assert row["features"] is None
        else:
            np.testing.assert_array_equal(decode_array(row["features"]), cell)


def test_flat_lists_are_one_step_of_features(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": ["1"], "f": pa.array([[0.5, -1.0]])})
    (row,) = read(tmp_path, columns={"sample_id": "id", "features": "f"})
    assert decode_array(row["features"]).tolist() == [[0.5, -1.0]]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ([[1.0], [2.0, 3.0]], "rows of 1 to 2 values"),
        ([[1.0], None], "holds null"),
        ([[1.0], [None]], "holds null"),
        ([], "shape"),
        ([[], []], "shape"),
    ],
)
def test_lists_that_are_no_array_say_why(tmp_path: Path, cell: Any, reason: str) -> None:
    write(
        tmp_path / "a.parquet",
        {"id": ["1"], "f": pa.array([cell], pa.list_(pa.list_(pa.float64())))},
    )
    (row,) = read(tmp_path, columns={"sample_id": "id", "features": "f"})
    with pytest.raises(ValueError, match=reason):
        decode_array(row["features"])


def test_features_that_are_bytes_pass_through(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": ["1", "2"], "f": [b"anything", encode_array([1.0])]})
    rows = read(tmp_path, columns={"sample_id": "id", "features": "f"})
    assert [row["features"] for row in rows] == [b"anything", encode_array([1.0])]


def test_templates_make_text_of_the_row_s_other_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": ["1", "2", "3"], "l": ["cat", None, "{x}"]})
    templates = {"caption": "a {label}, number {sample_id} {{really}}"}
    rows = read(tmp_path, columns={"sample_id": "id", "label": "l"}, templates=templates)
    assert [row["caption"] for row in rows] == [
        "a cat, number 1 {really}",
        None,
        "a {x}, number 3 {really}",
    ]


def test_the_splits_that_files_come_in_are_given() -> None:
    source = ParquetSource(source="parquet", columns={"sample_id": "x"}, splits={"val": "v"})
    assert source.given_splits == ["val"]
