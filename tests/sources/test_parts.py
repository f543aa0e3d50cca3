"""Several sources make one dataset, each row tagged with its part."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import DataError
from plumbline.sources import registry  # noqa: F401  (fills the table of sources)
from plumbline.sources.parts import PartsSource

CSV = {"source": "csv", "files": "a.csv"}
DIGIT = {**CSV, "columns": {"sample_id": "id", "label": "digit", "caption": "words"}}
SPEAKER = {**CSV, "columns": {"sample_id": "id", "label": "speaker"}}


def parts(**inner: Any) -> PartsSource:
    return PartsSource.model_validate({"source": "parts", "parts": inner})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text(
        "id,digit,speaker,words\n1,7,theo,seven\n2,8,lucas,eight\n", encoding="utf-8"
    )
    return tmp_path


def test_rows_of_all_parts_have_all_columns(folder: Path) -> None:
    source = parts(digit=DIGIT, speaker=SPEAKER)
    batches = list(source.read(folder))
    assert len({batch.schema for batch in batches}) == 1
    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"sample_id": "1", "part": "digit", "caption": "seven", "label": "7"},
        {"sample_id": "2", "part": "digit", "caption": "eight", "label": "8"},
        {"sample_id": "1", "part": "speaker", "caption": None, "label": "theo"},
        {"sample_id": "2", "part": "speaker", "caption": None, "label": "lucas"},
    ]


def test_the_splits_are_those_of_any_part() -> None:
    columns = {"sample_id": "id", "label": "l"}
    one = {"source": "parquet", "columns": columns, "splits": {"train": "t", "val": "v"}}
    other = {"source": "parquet", "columns": columns, "splits": {"train": "t", "test": "x"}}
    assert parts(a=one, b=other).given_splits == ["test", "train", "val"]


def test_a_part_without_rows_is_named(folder: Path) -> None:
    (folder / "a.csv").write_text("id,digit,speaker,words\n", encoding="utf-8")
    with pytest.raises(DataError, match="part digit has zero rows"):
        list(parts(digit=DIGIT).read(folder))


def test_what_has_parts_itself_is_no_part(tmp_path: Path) -> None:
    inner = {"source": "parts", "parts": {"b": DIGIT}}
    with pytest.raises(ValidationError, match="part a has parts itself"):
        parts(a=inner)
    signals = {"source": "signals", "recordings": 20}
    with pytest.raises(DataError, match="part a has a part column itself"):
        list(parts(a=signals).read(tmp_path))


@pytest.mark.parametrize(
    ("inner", "rule"), [({}, "at least one part"), ({"a b": DIGIT}, "not a name that can be used")]
)
def test_wrong_names_are_refused(inner: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        PartsSource.model_validate({"source": "parts", "parts": inner})
