from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.data import parquet_writer
from plumbline.data.parquet_writer import RowGroupWriter

SCHEMA = pa.schema([("sample_id", pa.string()), ("image", pa.binary()), ("rank", pa.int64())])


def rows(count: int, image_bytes: int = 10) -> list[dict[str, Any]]:
    return [
        {"sample_id": f"row-{n}", "image": bytes([n % 7]) * image_bytes, "rank": n}
        for n in range(count)
    ]


def write(path: Path, data: list[dict[str, Any]], batch_rows: int) -> Path:
    with RowGroupWriter(path, SCHEMA) as writer:
        for start in range(0, len(data), batch_rows):
            part = data[start : start + batch_rows]
            writer.write(pa.RecordBatch.from_pylist(part, schema=SCHEMA))
    assert writer.rows == len(data)
    return path


def group_rows(path: Path) -> list[int]:
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


@pytest.mark.parametrize("batch_rows", [1, 7, 64, 1000])
def test_the_bytes_do_not_depend_on_the_batches(
    batch_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_ROWS", 50)
    data = rows(333)
    reference = write(tmp_path / "reference.parquet", data, 333)
    assert group_rows(reference) == [50] * 6 + [33]
    other = write(tmp_path / "other.parquet", data, batch_rows)
    assert other.read_bytes() == reference.read_bytes()


def test_pages_do_not_depend_on_the_batches_either(tmp_path: Path) -> None:
    data = [{**row, "sample_id": f"{row['rank']}" * 3000} for row in rows(400)]
    paths = [write(tmp_path / f"{size}.parquet", data, size) for size in (7, 400)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_row_groups_are_bounded_by_bytes_and_one_large_row_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_BYTES", 1000)
    # A row takes its image, 5 bytes of sample_id and 8 of rank.
    data = rows(4, image_bytes=300)
    data[2]["image"] = bytes(5000)
    for batch_rows in (1, 4):
        path = write(tmp_path / f"{batch_rows}.parquet", data, batch_rows)
        assert group_rows(path) == [2, 1, 1]
        assert pq.read_table(path).to_pylist() == data


def test_dictionaries_of_bytes_become_plain_text_unread(tmp_path: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array([b"a", b"caf\xe9"]))
    batch = pa.RecordBatch.from_pydict({"more": pa.array([1, 2, 3]), "sample_id": ids})
    path = tmp_path / "part.parquet"
    with RowGroupWriter(path, pa.schema([("sample_id", pa.string())])) as writer:
        writer.write(batch)
    column = pq.read_table(path)["sample_id"].combine_chunks()
    assert column.type == pa.string()
    assert column.view(pa.binary()).to_pylist() == [b"caf\xe9", None, b"a"]


def test_a_table_without_rows_is_readable(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "part.parquet", [], 1))
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == 0


def test_pages_have_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", rows(20, image_bytes=400), 20)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


@pytest.mark.parametrize("before", [0, 1, 49, 50, 51, 150, 170, 332, 333])
@pytest.mark.parametrize("count", [333, 950])
def test_a_file_that_goes_on_has_the_bytes_of_one_that_was_written_at_once(
    before: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_ROWS", 50)
    data = [{**row, "image": None if at % 5 == 0 else row["image"]}
            for at, row in enumerate(rows(count))]  # fmt: skip
    begun = write(tmp_path / "begun.parquet", data[:before], 7)
    with RowGroupWriter(tmp_path / "on.parquet", SCHEMA, begun=begun) as writer:
        for start in range(before, count, 20):
            batch = pa.RecordBatch.from_pylist(data[start : start + 20], schema=SCHEMA)
            writer.write(batch)
    assert writer.rows == count
    whole = write(tmp_path / "whole.parquet", data, 33)
    assert (tmp_path / "on.parquet").read_bytes() == whole.read_bytes()
    assert pq.read_table(tmp_path / "on.parquet").to_pylist() == data


def with_dictionary(path: Path) -> list[set[str]]:
    """Of each row group the columns that have a dictionary."""
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    return [
        {
            column.path_in_schema
            for column in map(group.column, range(group.num_columns))
            if column.has_dictionary_page
        }
        for group in groups
    ]


@pytest.mark.parametrize(("repeated", "images"), [(0, 0), (2, 0), (3, 1), (47, 1)])
def test_the_first_row_group_says_which_columns_get_dictionaries(
    repeated: int, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_ROWS", 48)
    data = rows(48 * 3)
    for at, row in enumerate(data):
        # Of the first group so many repeat an image of theirs; of the others all do.
        row["image"] = b"%d" % (0 if at <= repeated else at) if at < 48 else b"again"
    path = write(tmp_path / "part.parquet", data, 11)
    expected = {"rank", *(["image"] if images else [])}
    assert with_dictionary(path) == [expected] * 3
    assert pq.read_table(path).to_pylist() == data
    begun = write(tmp_path / "begun.parquet", data[:100], 7)
    with RowGroupWriter(tmp_path / "on.parquet", SCHEMA, begun=begun) as writer:
        writer.write(pa.RecordBatch.from_pylist(data[100:], schema=SCHEMA))
    assert (tmp_path / "on.parquet").read_bytes() == path.read_bytes()


def test_a_column_without_a_value_counts_as_one_that_repeats(tmp_path: Path) -> None:
    data = [{**row, "image": None} for row in rows(20)]
    assert with_dictionary(write(tmp_path / "part.parquet", data, 20)) == [{"image", "rank"}]


def test_media_have_no_statistics(tmp_path: Path) -> None:
    group = pq.ParquetFile(write(tmp_path / "part.parquet", rows(20), 20)).metadata.row_group(0)
    assert [group.column(at).is_stats_set for at in range(3)] == [True, False, True]
