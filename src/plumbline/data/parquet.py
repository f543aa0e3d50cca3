"""Reading Parquet that others wrote: files are listed, opened, checked and streamed here.

Nothing here judges a value. Text columns are read as bytes, because a string column may hold bytes
that are not UTF-8, and converting a whole column would then fail for the sake of one row.

Memory does not depend on the number of rows: a batch has so few rows that, at the average of their
row group, they fill `BATCH_BYTES`. On top come the largest page, which pyarrow unpacks as a whole
and copies once if it is a dictionary, and the largest cell. What a page would take is read from its
header, and a page that would take far more than is stored is refused unread: see `parquet_pages`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plumbline.data.byte_columns import as_bytes, cut_rows, decode_column, is_byte_type
from plumbline.data.column_types import same_values
from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.nested_fields import find_type, pick_column
from plumbline.data.parquet_pages import ALLOWED, BadPage, Chunk, read_chunks
from plumbline.errors import DataError

BATCH_ROWS = 4096
BATCH_BYTES = 8 * 2**20
MAX_FOOTER_BYTES = 64 * 2**20
"""A footer above this is refused: its length comes from the file and would be allocated."""

# What pyarrow raises for damaged bytes, and `read_chunks`; a column name may be no UTF-8 as well.
_DAMAGE = (pa.ArrowException, OSError, ValueError)

_READ_BUFFER_BYTES = 2**20
_COLLECTED_BYTES = 2 * BATCH_BYTES
_COPIED_BYTES = 2**28
_SPLITS_KEY = b"plumbline.splits"


def list_parquet(place: Path) -> list[Path]:
    """List the Parquet files of a folder by name, or the one file that `place` is.

    Names that begin with a dot or an underscore belong to writers (`_SUCCESS`, partial files) and
    are passed over, as is everything that does not end in `.parquet`, and subfolders.

    Raises:
        DataError: `place` does not exist, or holds no such file.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such file or folder")
    found = sorted(
        path
        for path in place.glob("*.parquet")
        if not path.name.startswith((".", "_")) and path.is_file()
    )
    if not found:
        raise DataError(
            f"{place}: no input files; expected *.parquet whose names begin with neither a dot "
            "nor an underscore"
        )
    return found


def open_parquet(path: Path, byte_columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file and read its footer; page checksums, where stored, are verified later on.

    Args:
        path: the file.
        byte_columns: text and binary columns to read as dictionaries, which keeps a value that
            many rows share in memory once.

    Raises:
        DataError: the file is missing, not Parquet, truncated, or its footer is damaged.
    """
    try:
        _check_footer(path)
        file = pq.ParquetFile(
            path,
            read_dictionary=list(byte_columns),
            buffer_size=_READ_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        str(file.schema_arrow)  # decodes the names of columns, which may be damaged too
    except _DAMAGE as error:
        raise DataError(f"{path}: not readable as Parquet ({_one_line(error)})") from None
    return file


def _check_footer(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 12:
            raise pa.ArrowInvalid(f"{size} bytes are too few")
        file.seek(-8, 2)
        length, magic = struct.unpack("<I4s", file.read(8))
    if magic != b"PAR1":
        raise pa.ArrowInvalid("the end mark is missing: cut off, or another format")
    if length > min(size - 12, MAX_FOOTER_BYTES):
        raise pa.ArrowInvalid(f"a footer of {length} bytes in a file of {size}")


def check_schema(
    paths: Iterable[Path],
    required: Mapping[str, pa.DataType],
    optional: Mapping[str, pa.DataType] | None = None,
    *,
    also: Callable[[str, pa.DataType], bool] | None = None,
) -> frozenset[str]:
    """Check that every file has the columns, before any row of any file is decoded.

    More columns, another order, and other encodings of the same values are accepted: large, view
    and dictionary forms of text and binary, any width of integer or float, and the null type of a
    column without a value. A name with dots reaches into structs, such as `image.bytes`.

    Args:
        paths: the parts of one table.
        required: name -> type; the canonical type stands for all its encodings.
        optional: the same, for columns that all parts have or none has.
        also: says of a column's name whether another type, found there, will do as well.

    Returns:
        The names out of `required` and `optional` that the files have.

    Raises:
        DataError: names the part that differs, with the columns expected and found.
    """
    first: tuple[Path, frozenset[str]] | None = None
    for path in paths:
        with open_parquet(path) as file:
            schema = file.schema_arrow
        has = matching_columns(path, schema, required, optional or {}, also)
        if first is None:
            first = path, has
        elif has != first[1]:
            differ = ", ".join(sorted(has ^ first[1]))
            raise DataError(
                f"{path}: not the columns of {first[0].name}: only one of the two has {differ}"
            )
    return first[1] if first else frozenset()


def matching_columns(
    path: Path | str,
    schema: pa.Schema,
    required: Mapping[str, pa.DataType],
    optional: Mapping[str, pa.DataType],
    also: Callable[[str, pa.DataType], bool] | None,
) -> frozenset[str]:
    """Check the columns of one table, as `check_schema` does; `path` names it.

    Raises:
        DataError: names the table, with the columns expected and found.
    """
    wrong = []
    has = set()
    for name, expected in {**optional, **required}.items():
        found = find_type(schema, name)
        if found is None:
            if name in required:
                wrong.append(f"{name} is missing")
            continue
        has.add(name)
        if isinstance(found, str):
            wrong.append(f"{name} is there twice")
        elif not same_values(found, expected) and not (also and also(name, found)):
            wrong.append(f"{name} is {found}")
    if wrong:
        wanted = ", ".join(f"{name} {kind}" for name, kind in required.items())
        there = ", ".join(f"{field.name} {field.type}" for field in schema)
        raise DataError(
            f"{path}: wrong columns: {', '.join(wrong)}; expected {wanted}; "
            f"found {_shorten(there) or 'none'}"
        )
    return frozenset(has)


def declare_splits(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Note in a file's schema which splits its source gives, so that an empty one is noticed."""
    kept = dict(schema.metadata or {})
    return schema.with_metadata({**kept, _SPLITS_KEY: ",".join(names).encode()})


def declared_splits(paths: Iterable[Path]) -> frozenset[str]:
    """Collect the splits that `declare_splits` noted in any of the files."""
    names: set[str] = set()
    for path in paths:
        with open_parquet(path) as file:
            noted = (file.schema_arrow.metadata or {}).get(_SPLITS_KEY, b"")
        names.update(noted.decode("utf-8", "replace").split(",") if noted else ())
    return frozenset(names)


def iter_batches(
    path: Path, columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Stream columns of a file, in its row order; text and binary columns come as `binary`.

    `array.view(pa.string())` turns such a column into text again without looking at its bytes.

    Args:
        path: a file that has passed `check_schema` with these columns.
        columns: names, also with dots; the batches have them under these names, in this order.
        batch_rows: the most rows of a batch; it has fewer where rows are large.

    Raises:
        DataError: the file is damaged; names it and the row group.
    """
    for batch in iter_encoded_batches(path, columns, batch_rows):
        for start, stop in cut_rows(batch, BATCH_BYTES):
            part = batch.slice(start, stop - start)
            yield pa.RecordBatch.from_arrays(
                [decode_column(column) for column in part.columns], names=list(columns)
            )


def iter_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream a table that a stage wrote, as `iter_batches` does, with text as text.

    Args:
        path: the file; its text is known to be UTF-8.
        columns: names; None for all.

    Raises:
        DataError: the file is missing or damaged.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
    names = schema.names if columns is None else columns
    for batch in iter_batches(path, names):
        typed = [
            column.view(pa.string()) if pa.types.is_string(schema.field(name).type) else column
            for name, column in zip(names, batch.columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(typed, names=list(names))


def count_rows(path: Path) -> int:
    """Number of rows by the footer.

    Raises:
        DataError: the file is missing or damaged.
    """
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def column_names(path: Path) -> list[str]:
    """Names of the columns by the footer.

    Raises:
        DataError: the file is missing or damaged.
    """
    with open_parquet(path) as file:
        return list(file.schema_arrow.names)


def iter_encoded_batches(
    path: Path,
    columns: Sequence[str],
    batch_rows: int = BATCH_ROWS,
    groups: range | None = None,
) -> Iterator[pa.RecordBatch]:
    """As `iter_batches`, with text and binary columns as dictionaries of `binary` values.

    Of the row groups with numbers `groups` alone, where they are given.

    A value that the file holds once for many rows is in memory once, so that a batch stays small
    even where a tiny file repeats a huge cell. One that it holds for each row, and any where cells
    are large, may be in the dictionary more than once.
    """
    with open_parquet(path) as plain, ExitStack() as others:
        byte_columns = [
            name for name in columns if is_byte_type(find_type(plain.schema_arrow, name))
        ]
        files: dict[tuple[str, ...], pq.ParquetFile] = {(): plain}
        group = first = groups.start if groups else 0
        row = sum(int(plain.metadata.row_group(at).num_rows) for at in range(first))
        try:
            for group, chunks in enumerate(read_chunks(path, columns, groups), first):
                count = int(plain.metadata.row_group(group).num_rows)
                rows, together = _plan(chunks, count, batch_rows)
                shared = [name for name in byte_columns if together and _is_shared(name, chunks)]
                if tuple(shared) not in files:
                    files[tuple(shared)] = others.enter_context(open_parquet(path, shared))
                stop = row + count
                for batch in files[tuple(shared)].iter_batches(
                    rows, row_groups=[group], columns=list(columns), use_threads=False
                ):
                    canonical = _canonical(batch, columns, encode=not together)
                    _check_cells(canonical, row)
                    yield canonical
                    row += batch.num_rows
                if row != stop:
                    raise ValueError(f"{count - stop + row} of {count} rows can be read")
        except BadPage as error:
            raise DataError(f"{path}: row group {group}, {error}") from None
        except _DAMAGE as error:
            raise DataError(
                f"{path}: damaged in row group {group} ({_one_line(error)}); get or write the file "
                "again, or take it out"
            ) from None


def _is_shared(column: str, chunks: Sequence[Chunk]) -> bool:
    """Whether values of a column are stored once for many rows."""
    return any(chunk.shared and f"{chunk.name}.".startswith(f"{column}.") for chunk in chunks)


def _plan(chunks: Sequence[Chunk], group_rows: int, batch_rows: int) -> tuple[int, bool]:
    """How many rows of a row group make a batch, and whether pyarrow may keep its values together.

    It reads a column as dictionaries by collecting all values that the row group has up to there.
    Otherwise, and where it cannot do that, a value that is stored once is copied to each of its
    rows.
    """
    size = sum(chunk.size for chunk in chunks)
    rows = min(batch_rows, BATCH_BYTES * max(group_rows, 1) // max(size, 1))
    kept = [chunk.shared if chunk.only_dictionary else chunk.size for chunk in chunks]
    copied = any(chunk.only_copies for chunk in chunks)
    if max(kept, default=0) <= _COLLECTED_BYTES and not copied:
        return max(1, rows), True
    shared = max(chunk.shared for chunk in chunks)
    return max(1, min(rows, _COPIED_BYTES // max(shared, 1))), False


def _check_cells(batch: pa.RecordBatch, first_row: int) -> None:
    """Refuse a cell that the sizes of its pages did not give away, before it is copied."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if (
            not pa.types.is_dictionary(column.type)
            or column.dictionary.nbytes <= MAX_CELL_BYTES + 1
        ):
            continue
        sizes = pc.binary_length(column.dictionary).take(column.indices).fill_null(0)
        if (largest := pc.max(sizes).as_py()) > MAX_CELL_BYTES + 1:
            row = first_row + pc.index(sizes, largest).as_py()
            raise BadPage(f"column {name}: {largest} bytes in row {row} of the file, {ALLOWED}")


def plain_batch(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Columns of a batch, with text and bytes as `binary`; dots in a name reach into structs."""
    picked = [decode_column(_canonical_column(pick_column(batch, name), False)) for name in columns]
    return pa.RecordBatch.from_arrays(picked, names=list(columns))


def _canonical(batch: pa.RecordBatch, columns: Sequence[str], *, encode: bool) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [_canonical_column(pick_column(batch, name), encode) for name in columns],
        names=list(columns),
    )


def _canonical_column(column: pa.Array, encode: bool) -> pa.Array:
    """Bring a column to its form; `encode` finds which of its plain values are equal."""
    if pa.types.is_null(column.type):
        indices = pa.nulls(len(column), pa.int32())
        return pa.DictionaryArray.from_arrays(indices, pa.array([], pa.binary()))
    if not is_byte_type(column.type):
        return column
    if not pa.types.is_dictionary(column.type):
        cells = as_bytes(column)
        if encode and cells.nbytes <= BATCH_BYTES:
            return cells.dictionary_encode()
        places = pa.array(
            np.arange(len(cells), dtype=np.int32), mask=cells.is_null().to_numpy(False)
        )
        return pa.DictionaryArray.from_arrays(places, cells)
    return pa.DictionaryArray.from_arrays(
        column.indices.cast(pa.int32()), as_bytes(column.dictionary)
    )


def _one_line(error: BaseException) -> str:
    return _shorten(" ".join(str(error).split()))


def _shorten(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:600]}..."
