"""Somebody's Parquet files arrive in the canonical columns, cell by cell as they were."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from plumbline.data.columns import CANONICAL
from plumbline.errors import ConfigError, DataError
from plumbline.sources.parquet import CaptionRule, ParquetConfig, read_parquet
from plumbline.sources.registry import ParquetSource

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
    config = ParquetConfig.model_validate(settings)
    batches = list(read_parquet(config, path))
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
    config = ParquetConfig(
        columns={"sample_id": "id", "question": "q", "answer": "a"},
        captions=[CaptionRule(question=".+", caption="something")],
    )
    (batch,) = read_parquet(config, tmp_path)
    assert batch.column("question").view(pa.binary()).to_pylist() == [b"caf\xe9", b"fine"]
    assert batch.column("caption").to_pylist() == [None, "something"]


def test_captions_need_question_and_answer(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", QA)
    rules = [{"question": ".+", "caption": "x"}]
    with pytest.raises(DataError, match="map both columns"):
        read(tmp_path, columns={"sample_id": "id", "question": "q"}, captions=rules)


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
        ({"columns": {"image": "x"}}, "sample_id is needed"),
        ({"columns": {"sample_id": "id"}, "splits": {"dev": "x"}}, "unknown split 'dev'"),
        (
            {
                "columns": {"sample_id": "id"},
                "captions": [{"question": "(", "caption": "x"}],
            },
            "not a regular expression",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ParquetConfig.model_validate(settings)


def test_a_template_that_names_no_group_is_refused_before_any_row_is_read() -> None:
    with pytest.raises(ValidationError, match="caption"):
        CaptionRule(question="is there (.+)", caption=r"there is \2")


def test_the_source_reads_what_its_settings_say(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": ["1"]})
    source = ParquetSource(source="parquet", columns={"sample_id": "id"})
    assert [b.to_pylist() for b in source.read(tmp_path)] == [[{"sample_id": "1"}]]
