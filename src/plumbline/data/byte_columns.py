"""Columns of bytes in Arrow batches, plain or as dictionaries of their distinct values."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def is_byte_type(kind: pa.DataType) -> bool:
    """Whether cells of this type are text or bytes, in any of Arrow's encodings."""
    if pa.types.is_dictionary(kind):
        return is_byte_type(kind.value_type)
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def as_bytes(array: pa.Array) -> pa.BinaryArray:
    """Bring a plain array of text or bytes to `binary`, without looking at what text holds."""
    if pa.types.is_string(array.type):
        return array.view(pa.binary())
    if pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())
    return array.cast(pa.binary())


def decode_column(column: pa.Array) -> pa.Array:
    """Turn a dictionary column into a plain one; any other column stays as it is."""
    if not pa.types.is_dictionary(column.type):
        return column
    return column.dictionary.take(column.indices)


def row_bytes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Size of every row once decoded: [rows]; a number counts 8 bytes, a null none."""
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if not is_byte_type(column.type):
            total += 8
        elif pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(as_bytes(column.dictionary)).take(column.indices)
            total += _numbers(lengths, missing=0)
        else:
            total += _numbers(pc.binary_length(as_bytes(column)), missing=0)
    return total


def cut_rows(batch: pa.RecordBatch, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut a batch into pieces [start, stop) of at most `max_bytes`, or of one larger row."""
    total = np.concatenate(([0], np.cumsum(row_bytes(batch))))
    start = 0
    while start < batch.num_rows:
        fits = int(np.searchsorted(total, total[start] + max_bytes, side="right")) - 1
        stop = max(start + 1, fits)
        yield start, stop
        start = stop


class DistinctCells(NamedTuple):
    """The cells of a byte column as distinct values, and which of them each row has."""

    row_value: NDArray[np.int64]
    """[rows]: position in `values`; -1 where the cell is null."""
    values: list[bytes | None]
    """The distinct values; None where one is longer than the limit and so was not copied."""
    lengths: list[int]
    """Bytes of each value, also of those that were not copied."""


def distinct_cells(column: pa.DictionaryArray, max_bytes: int) -> DistinctCells:
    """Find the values that the rows of a dictionary column of `binary` use."""
    row_index = _numbers(column.indices, missing=-1)
    used, row_value = np.unique(row_index, return_inverse=True)
    if used.size and used[0] < 0:
        used, row_value = used[1:], row_value - 1
    lengths = pc.binary_length(column.dictionary).take(pa.array(used)).to_numpy()
    fits = np.flatnonzero(lengths <= max_bytes)
    values: list[bytes | None] = [None] * len(used)
    copied = column.dictionary.take(pa.array(used[fits])).to_pylist()
    for place, value in zip(fits.tolist(), copied, strict=True):
        values[place] = value
    return DistinctCells(row_value.astype(np.int64), values, lengths.tolist())


def cell_view(column: pa.DictionaryArray, row: int) -> memoryview | None:
    """Look at one cell of a dictionary column of `binary` without copying it; None for null."""
    index = column.indices[row].as_py()
    if index is None:
        return None
    values = column.dictionary
    _, offsets, data = values.buffers()
    start, stop = np.frombuffer(offsets, np.int32, 2, 4 * (values.offset + index)).tolist()
    return memoryview(b"") if data is None else memoryview(data)[start:stop]


def _numbers(array: pa.Array, missing: int) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = array.fill_null(missing).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)
