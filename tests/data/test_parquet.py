import itertools
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plumbline.data import parquet, parquet_pages
from plumbline.data.parquet import (
    check_schema,
    declare_splits,
    declared_splits,
    iter_batches,
    iter_encoded_batches,
    list_parquet,
    open_parquet,
)
from plumbline.errors import DataError

ROWS: dict[str, list[Any]] = {
    "sample_id": [f"row-{number}" for number in range(7)],
    "image": [b"one", b"two", None, b"", b"one", b"three", b"two"],
    "caption": ["a", "b", "a", None, "", "c", "d\n"],
}
WANTED = {"sample_id": pa.string(), "image": pa.binary(), "caption": pa.string()}
EXPECTED = [
    {name: value.encode() if isinstance(value, str) else value for name, value in row.items()}
    for row in pa.table(ROWS).to_pylist()
]


def write(path: Path, table: pa.Table | None = None, **options: Any) -> Path:
    pq.write_table(pa.table(ROWS) if table is None else table, path, **options)
    return path


def rows_of(path: Path, columns: list[str] | None = None, **options: Any) -> list[dict[str, Any]]:
    return [
        row
        for batch in iter_batches(path, columns or list(WANTED), **options)
        for row in batch.to_pylist()
    ]


def test_only_parquet_files_without_dot_or_underscore_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".c.parquet", "_d.parquet", "_SUCCESS", "e.csv"):
        (tmp_path / name).touch()
    (tmp_path / "folder.parquet").mkdir()
    assert [path.name for path in list_parquet(tmp_path)] == ["a.parquet", "b.parquet"]
    assert list_parquet(tmp_path / "b.parquet") == [tmp_path / "b.parquet"]


def test_a_folder_without_input_and_a_missing_one_have_their_own_messages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input files"):
        list_parquet(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        list_parquet(tmp_path / "nowhere")


def damaged(good: bytes, kind: str) -> bytes:
    return {
        "empty": b"",
        "few bytes": good[:7],
        "footer gone": good[:-40],
        "cut in half": good[: len(good) // 2],
        "text": b"sample_id,caption\n1,a\n" * 10,
        "garbage in the footer": good[:-60] + b"\xff" * 52 + good[-8:],
        "footer longer than the file": good[:-8] + struct.pack("<I", 2**31 - 16) + b"PAR1",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "few bytes",
        "footer gone",
        "cut in half",
        "text",
        "garbage in the footer",
        "footer longer than the file",
    ],
)
def test_an_unreadable_file_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "part-1.parquet")
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(
        DataError, match=r"part-1\.parquet: not readable as Parquet \(.+\)"
    ) as error:
        check_schema([path], WANTED)
    assert "\n" not in str(error.value)


def test_a_footer_of_a_gigabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.parquet"
    with path.open("wb") as file:  # a sparse file: its size costs no disk
        file.truncate(2**31)
        file.seek(0, 2)
        file.write(struct.pack("<I", 2**30) + b"PAR1")
    with pytest.raises(DataError, match="a footer of 1073741824 bytes"):
        open_parquet(path)


def test_a_file_that_is_all_footer_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.ParquetWriter(path, pa.schema([("caption", pa.string())])).close()
    (length,) = struct.unpack("<I", path.read_bytes()[-8:-4])
    assert length == path.stat().st_size - 12
    assert rows_of(path, ["caption"]) == []


@pytest.mark.parametrize("dictionary", [True, False, ["caption"]])
def test_a_row_group_without_rows_has_none_and_those_beside_it_have_theirs(
    dictionary: bool | list[str], tmp_path: Path
) -> None:
    path, table = tmp_path / "part.parquet", pa.table(ROWS)
    write(path, table.slice(0, 0), use_dictionary=dictionary)
    assert pq.ParquetFile(path).num_row_groups == 1
    assert rows_of(path) == []
    with pq.ParquetWriter(path, table.schema, use_dictionary=dictionary) as writer:
        for part in (table.slice(0, 0), table, table.slice(0, 0)):
            writer.write_table(part)
    assert rows_of(path) == EXPECTED


def test_a_column_name_that_is_not_utf8_is_damage_and_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"caption", b"capti\xff\xfe"))
    with pytest.raises(DataError, match="not readable as Parquet"):
        check_schema([path], WANTED)


def test_a_flipped_bit_in_a_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    table = pa.table({**ROWS, "image": [bytes([n]) * 1000 for n in range(7)]})
    path = write(tmp_path / "part.parquet", table, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(b"\x03" * 1000) + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"part\.parquet: damaged in row group 0"):
        rows_of(path)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("plain", {}),
        ("large", {"caption": pa.large_string(), "image": pa.large_binary()}),
        ("view", {"caption": pa.string_view(), "image": pa.binary_view()}),
        ("dictionary", {"caption": pa.dictionary(pa.int8(), pa.string())}),
        ("large dictionary", {"caption": pa.dictionary(pa.int32(), pa.large_string())}),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_every_encoding_of_the_same_values_reads_the_same(
    kind: str, columns: dict[str, pa.DataType], stored: bool, tmp_path: Path
) -> None:
    table = pa.table(ROWS)
    for name, type_ in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(type_))
    path = write(tmp_path / f"{kind}.parquet", table, row_group_size=2, store_schema=stored)
    assert check_schema([path], WANTED) == set(WANTED)
    assert rows_of(path) == EXPECTED


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_batches_and_row_groups_of_any_size_give_the_same_rows(
    batch_rows: int, row_group_size: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "part.parquet", row_group_size=row_group_size)
    assert rows_of(path, batch_rows=batch_rows) == EXPECTED
    sizes = [batch.num_rows for batch in iter_batches(path, ["image"], batch_rows)]
    assert max(sizes) <= batch_rows


def test_other_order_and_more_columns_are_accepted(tmp_path: Path) -> None:
    table = pa.table({"url": ["u"] * 7, **dict(reversed(ROWS.items()))})
    path = write(tmp_path / "part.parquet", table)
    assert check_schema([path], WANTED) == set(WANTED)
    assert rows_of(path) == EXPECTED


def test_bytes_that_are_not_utf8_pass_through_a_text_column(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"caf\xe9", None]).view(pa.string())
    path = write(tmp_path / "part.parquet", pa.table({"caption": texts}))
    assert rows_of(path, ["caption"]) == [
        {"caption": b"good"},
        {"caption": b"caf\xe9"},
        {"caption": None},
    ]


def test_columns_inside_structs_are_reached_by_dots(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"x", "path": "p"}, None, {"bytes": None, "path": "q"}])
    path = write(tmp_path / "part.parquet", pa.table({"image": images, "n": [1, 2, 3]}))
    assert check_schema([path], {"image.bytes": pa.binary()}) == {"image.bytes"}
    assert rows_of(path, ["image.bytes"]) == [
        {"image.bytes": b"x"},
        {"image.bytes": None},
        {"image.bytes": None},
    ]
    with pytest.raises(DataError, match=r"image\.text is missing"):
        check_schema([path], {"image.text": pa.string()})


def test_a_column_of_nothing_but_nulls_fits_any_type(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet", pa.table({"caption": pa.nulls(2)}))
    assert check_schema([path], {"caption": pa.string()}) == {"caption"}
    assert rows_of(path, ["caption"]) == [{"caption": None}] * 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sample_id": ["a"], "image": [b"x"]}, "caption is missing"),
        ({"sample_id": ["a"], "image": [b"x"], "caption": [3]}, "caption is int64"),
        ({"sample_id": ["a"], "image": ["x"], "caption": ["c"]}, "image is string"),
        ({"sample_id": ["a"], "image": [b"x"], "caption": [b"c"]}, "caption is binary"),
        ({"sample_id": ["a"], "image": [b"x"], "caption": [["c"]]}, "caption is list"),
    ],
)
def test_wrong_columns_are_an_error_that_lists_expected_and_found(
    table: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "part.parquet", pa.table(table))
    with pytest.raises(DataError, match=message) as error:
        check_schema([path], WANTED)
    assert "expected sample_id string, image binary, caption string; found " in str(error.value)


def test_a_column_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["caption"] * 2)
    path = write(tmp_path / "part.parquet", table)
    with pytest.raises(DataError, match="caption is there twice"):
        check_schema([path], {"caption": pa.string()})


def test_the_part_that_differs_from_the_others_is_named(tmp_path: Path) -> None:
    first = write(tmp_path / "part-0.parquet")
    second = write(tmp_path / "part-1.parquet", pa.table(ROWS).drop(["caption"]))
    with pytest.raises(DataError, match=r"part-1\.parquet: wrong columns: caption is missing"):
        check_schema([first, second], WANTED)
    optional = {"caption": pa.string()}
    with pytest.raises(DataError, match=r"part-1\.parquet: not the columns of part-0\.parquet"):
        check_schema([first, second], {"image": pa.binary()}, optional)


def test_optional_columns_are_reported_when_there(tmp_path: Path) -> None:
    path = write(tmp_path / "part.parquet")
    optional = {"caption": pa.string(), "split": pa.string()}
    assert check_schema([path], {"image": pa.binary()}, optional) == {"image", "caption"}


def test_declared_splits_survive_the_file(tmp_path: Path) -> None:
    table = pa.table(ROWS)
    schema = declare_splits(table.schema.with_metadata({"other": "kept"}), ["train", "val"])
    path = write(tmp_path / "part.parquet", table.cast(schema))
    assert declared_splits([path, write(tmp_path / "more.parquet")]) == {"train", "val"}
    assert pq.read_schema(path).metadata[b"other"] == b"kept"


def test_a_huge_value_that_many_rows_share_is_in_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2**20)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 4096), pa.array([bytes(2**20)]))
    path = write(tmp_path / "part.parquet", pa.table({"image": shared}), compression="zstd")
    (batch, *_) = iter_encoded_batches(path, ["image"])
    assert batch.get_total_buffer_size() < 2 * 2**20 + 4096 * 8
    sizes = [part.num_rows for part in iter_batches(path, ["image"])]
    assert set(sizes) == {1}
    assert sum(sizes) == 4096


POOLS: list[pa.MemoryPool] = []
"""A pool must live as long as anything that it has given."""


@contextmanager
def counted_pool() -> Iterator[pa.MemoryPool]:
    """A pool that counts what Arrow holds at most from here on."""
    before = pa.default_memory_pool()
    POOLS.append(pa.proxy_memory_pool(before))
    pa.set_memory_pool(POOLS[-1])
    try:
        yield POOLS[-1]
    finally:
        pa.set_memory_pool(before)


def peak_of_reading(path: Path, columns: list[str]) -> int:
    """Bytes that Arrow holds at most while a file is read."""
    everything = pa.default_memory_pool()  # what is read ahead is not taken from our pool
    start, held = everything.bytes_allocated(), 0
    with counted_pool() as pool:
        for _ in iter_batches(path, columns):
            held = max(held, everything.bytes_allocated() - start)
        return max(int(pool.max_memory()), held)


def many_images(path: Path, rows: int, **options: Any) -> Path:
    """One row group of images of 100 kB, which nothing compresses."""
    draw = random.Random(0)
    table = pa.table(
        {
            "sample_id": [f"row-{row}" for row in range(rows)],
            "image": [draw.randbytes(100_000) for _ in range(rows)],
        }
    )
    return write(path, table, row_group_size=rows, **options)


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_large_row_group_is_read_piece_by_piece(dictionary: bool, tmp_path: Path) -> None:
    options = {"use_dictionary": dictionary, "write_batch_size": 8}
    path = many_images(tmp_path / "part.parquet", 1600, **options)
    # 160 MB, in pages of 1 MB: a batch of 8 MiB and its copies.
    assert peak_of_reading(path, ["sample_id", "image"]) < 60 * 2**20


@pytest.mark.slow
def test_a_row_group_of_a_gigabyte_with_large_pages_is_read(tmp_path: Path) -> None:
    # As pandas and pyarrow write it: 1,024 images of 100 kB to a page, the first as a dictionary.
    path = many_images(tmp_path / "part.parquet", 10_000)
    assert peak_of_reading(path, ["sample_id", "image"]) < 4 * 1024 * 100_000


def with_large_cell(path: Path, layout: str, cell: bytes, **options: Any) -> Path:
    others = [b"x%d" % row * 50 for row in range(1000)]
    cells = {
        "alone": [cell],
        "among others": [*others[:500], cell, *others[500:]],
        "several": [*others[:500], cell, cell[:-1], cell[:-2], *others[500:]],
        "shared": [cell] * 4 + others,
    }
    images = pa.array(cells[layout.removesuffix(", nested")], pa.binary())
    if layout.endswith("nested"):
        images = pa.StructArray.from_arrays([images], ["bytes"])
    return write(path, pa.table({"image": images}), **options)


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize(
    "layout", ["alone", "among others", "several", "shared", "among others, nested"]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"use_dictionary": False}, {"use_dictionary": False, "data_page_version": "2.0"}],
)
def test_a_page_that_unpacks_to_far_more_than_is_stored_is_refused_unread(
    compression: str,
    layout: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    path = with_large_cell(
        tmp_path / "part.parquet", layout, bytes(2**22), compression=compression, **options
    )
    name = "image.bytes" if layout.endswith("nested") else "image"
    with pytest.raises(DataError) as error:
        list(iter_batches(path, [name]))
    found = re.fullmatch(
        rf"{path}: row group 0, column {name}: a page of (\d+) bytes unpacks to (\d+), .*",
        str(error.value),
    )
    assert found
    assert int(found[1]) * 16 < int(found[2]) >= 2**22
    assert peak_of_refusal(path, name) < 2**20


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_list_that_repeats_a_number_too_often_is_refused_unread(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    lists = [[1.5] * 3] * 500 + [np.zeros(2**20)] + [[1.5] * 3] * 500
    table = pa.table({"features": lists, "value": np.zeros(1001)})
    path = write(tmp_path / "part.parquet", table, data_page_version=version)
    assert len(rows_of(path, ["value"])) == 1001
    with pytest.raises(
        DataError, match=r"row group 0, column features.*: a page of \d+ bytes unpacks"
    ):
        list(iter_batches(path, ["features"]))


def test_a_column_of_one_number_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**16)
    path = write(tmp_path / "part.parquet", pa.table({"value": np.zeros(2**18)}))
    assert sum(batch.num_rows for batch in iter_batches(path, ["value"])) == 2**18


def peak_of_refusal(path: Path, name: str) -> int:
    """Bytes that Arrow holds at most for a file that is refused."""
    with counted_pool() as pool:
        with pytest.raises(DataError):
            list(iter_batches(path, [name]))
        return int(pool.max_memory())


@pytest.mark.slow
def test_a_cell_of_256_mb_in_13_kb_is_refused_unread(tmp_path: Path) -> None:
    path = with_large_cell(
        tmp_path / "part.parquet", "among others", bytes(2**28), compression="zstd"
    )
    assert path.stat().st_size < 20_000
    assert peak_of_refusal(path, "image") < 2**20


ONE_VALUE = r"column image: a page of \d+ bytes with 1 values, where a cell may have"


@pytest.mark.parametrize(
    ("layout", "dictionary", "message"),
    [
        ("alone", False, ONE_VALUE),
        ("alone", True, ONE_VALUE),
        ("among others", False, "column image: 33554432 bytes in row 500 of the file, where"),
        ("among others", True, "column image: 33554432 bytes in row 500 of the file, where"),
        ("shared", True, "column image: 33554432 bytes in row 0 of the file, where"),
    ],
)
def test_a_cell_above_the_limit_is_refused_however_it_is_stored(
    layout: str, dictionary: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All limits an eighth of what they are, and a cell of 32 MiB instead of 256.
    monkeypatch.setattr(parquet, "MAX_CELL_BYTES", 2**23)
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**23)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2**20)
    monkeypatch.setattr(parquet, "_COLLECTED_BYTES", 2**21)
    monkeypatch.setattr(parquet, "_COPIED_BYTES", 2**25)
    cell = random.Random(0).randbytes(2**25)
    path = with_large_cell(
        tmp_path / "part.parquet", layout, cell, compression="none", use_dictionary=dictionary
    )
    with pytest.raises(DataError, match=f"row group 0, {message}"):
        list(iter_batches(path, ["image"]))
    # Read once, and once more where it is a dictionary; never copied to rows and batches.
    assert peak_of_refusal(path, "image") < 3.2 * 2**25


def test_a_large_cell_in_a_column_that_is_not_wanted_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_pages, "MAX_PAGE_BYTES", 2**20)
    table = pa.table({"caption": ["a"], "image": [bytes(2**22)]})
    path = write(tmp_path / "part.parquet", table, compression="zstd")
    assert rows_of(path, ["caption"]) == [{"caption": b"a"}]


def test_a_value_that_many_rows_share_is_not_copied_to_thousands_of_them(tmp_path: Path) -> None:
    cell = random.Random(0).randbytes(2**25)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array([cell]))
    path = write(tmp_path / "part.parquet", pa.table({"image": shared}), store_schema=False)
    sizes = [batch.num_rows for batch in itertools.islice(iter_encoded_batches(path, ["image"]), 3)]
    assert max(sizes) <= 8


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}])
def test_headers_say_what_the_footer_says(options: dict[str, Any], tmp_path: Path) -> None:
    draw = random.Random(0)
    table = pa.table(
        {
            "sample_id": [f"row-{row}" for row in range(3000)],
            "caption": [draw.choice("abc") * 2000 for _ in range(3000)],
            "value": pa.array(range(3000), pa.int64()),
            "list": [[1.5] * (row % 4) for row in range(3000)],
        }
    )
    path = write(tmp_path / "part.parquet", table, row_group_size=1300, **options)
    metadata = pq.read_metadata(path)
    groups = list(parquet_pages.read_chunks(path, table.schema.names))
    assert len(groups) == metadata.num_row_groups == 3
    for number, chunks in enumerate(groups):
        rows = metadata.row_group(number).num_rows
        ids, caption, value, items = chunks
        assert [c.name for c in chunks] == ["sample_id", "caption", "value", "list.list.element"]
        assert (value.size, items.size) == (
            8 * rows,
            8 * metadata.row_group(number).column(3).num_values,
        )
        assert ids.size >= sum(len(f"row-{row}") for row in range(rows))
        if "use_dictionary" in options:
            assert not caption.only_dictionary
            assert (caption.shared, caption.size > 2000 * rows) == (0, True)
            assert 0.9 * caption.size < metadata.row_group(number).column(1).total_uncompressed_size
        else:
            assert caption.only_dictionary
            assert 6000 <= caption.shared < caption.size < 10_000


def test_values_that_repeat_the_one_before_are_not_taken_for_as_small_as_they_are_stored(
    tmp_path: Path,
) -> None:
    long = random.Random(0).randbytes(2**20)
    table = pa.table({"image": [long + bytes([row % 256]) for row in range(500)]})
    path = write(
        tmp_path / "part.parquet",
        table,
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
    )
    ((chunk,),) = parquet_pages.read_chunks(path, ["image"])
    assert 2**20 <= chunk.shared <= chunk.size < 2 * 2**20
    assert not chunk.only_dictionary


def test_importing_the_reader_loads_no_heavy_library() -> None:
    code = (
        "import sys, plumbline.validation.validate; "
        "print([name for name in ('torch', 'pandas', 'PIL') if name in sys.modules])"
    )
    path = {"PYTHONPATH": str(Path(parquet.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path
    )
    assert done.stdout.strip() == "[]"
