"""Raw rows are written in files of bounded size, and a source is chosen by name."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from plumbline.data.parquet import declared_splits, list_parquet
from plumbline.errors import DataError
from plumbline.sources import registry
from plumbline.sources.registry import ParquetSource, ScenesSource, SourceConfig, write_raw


def batches(*sizes: int) -> list[pa.RecordBatch]:
    rows = iter(range(sum(sizes)))
    return [pa.RecordBatch.from_pydict({"n": [next(rows) for _ in range(s)]}) for s in sizes]


def test_rows_keep_their_order_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ROWS_PER_FILE", 5)
    assert write_raw(iter(batches(3, 3, 2, 4, 1)), [], tmp_path) == 13
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"rows-0000{n}.parquet" for n in range(3)]
    assert [n for f in files for n in pq.read_table(f)["n"].to_pylist()] == list(range(13))


def test_the_splits_that_a_source_has_are_noted_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ROWS_PER_FILE", 2)
    write_raw(iter(batches(3, 4)), ["test", "train"], tmp_path)
    files = list_parquet(tmp_path)
    assert len(files) == 2
    for file in files:
        assert declared_splits([file]) == {"test", "train"}


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_a_source_without_rows_is_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the source has zero rows"):
        write_raw(iter(batches(*sizes)), [], tmp_path)


def test_the_error_of_a_source_comes_through(tmp_path: Path) -> None:
    def failing() -> object:
        yield from batches(3)
        raise DataError("planted")

    with pytest.raises(DataError, match="planted"):
        write_raw(failing(), [], tmp_path)  # type: ignore[arg-type]


def test_a_source_is_chosen_by_its_name(tmp_path: Path) -> None:
    chosen: TypeAdapter[object] = TypeAdapter(SourceConfig)
    source = chosen.validate_python({"source": "scenes", "images": 10, "image_size": 16})
    assert isinstance(source, ScenesSource)
    rows = sum(b.num_rows for b in source.read(tmp_path / "nowhere"))
    assert rows == 10 * 9
    assert source.given_splits == []
    settings = {"source": "parquet", "columns": {"sample_id": "id"}, "splits": {"val": "v"}}
    other = chosen.validate_python(settings)
    assert isinstance(other, ParquetSource)
    assert other.given_splits == ["val"]
