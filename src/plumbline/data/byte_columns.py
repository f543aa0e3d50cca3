"""Columns of bytes in Arrow batches, plain or as dictionaries of their distinct values."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

SPAN_BYTES = 2**24
"""Bytes of values that are looked at together: twice what a batch of rows usually has."""


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
    """The cells of a byte column as distinct values, and which of them each row has.

    The values lie in the column's own buffer: none of them is a Python object before it is asked
    for.
    """

    row_value: NDArray[np.int64]
    """[rows]: position of the value; -1 where the cell is null."""
    data: NDArray[np.uint8]
    """Bytes, in which each value is a run."""
    starts: NDArray[np.int64]
    """[values]: where each value begins in `data`."""
    ends: NDArray[np.int64]
    """[values]: where it ends."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each value: [values]."""
        return self.ends - self.starts

    def value(self, at: int) -> bytes:
        """Copy one value."""
        return self.data[self.starts[at] : self.ends[at]].tobytes()

    def views(self, places: NDArray[np.int64]) -> Iterator[memoryview]:
        """Look at some values, one after the other, without copying them."""
        view = self.data.data
        bounds = map(slice, self.starts[places].tolist(), self.ends[places].tolist())
        return map(view.__getitem__, bounds)

    def heads(self, size: int) -> NDArray[np.uint8]:
        """The first bytes of every value, zeros behind its end: [values, size]."""
        heads = np.empty((len(self.starts), size), np.uint8)
        tail = max(0, len(self.data) - size)
        last = np.concatenate((self.data[tail:], np.zeros(size, np.uint8)))
        is_last = self.starts >= tail
        for rows, data, first in ((~is_last, self.data, 0), (is_last, last, tail)):
            if rows.any():
                # Overlapping windows, of which one copy takes a whole value.
                windows = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
                found = windows[self.starts[rows] - first]
                heads[rows] = found.view(np.uint8).reshape(-1, size)
        heads[np.arange(size) >= self.lengths[:, None]] = 0
        return heads

    def may_have(self, table: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether a value has one of the bytes that `table` [256] marks: [values].

        Of very many bytes it says so of all, for whoever asks to look at them one by one.
        """
        if not len(self.starts):
            return np.zeros(0, bool)
        first, last = int(self.starts.min()), int(self.ends.max())
        if last - first > SPAN_BYTES:
            return np.ones(len(self.starts), bool)
        marks = np.append(table[self.data[first:last]], False)
        if not marks.any():
            return np.zeros(len(self.starts), bool)
        bounds = np.stack((self.starts, self.ends), axis=1).ravel() - first
        # Every second run is what lies between two values; one without a byte has none.
        found = np.logical_or.reduceat(marks, bounds)[::2]
        return np.asarray(found & (self.lengths > 0))

    def replaced(self, values: Mapping[int, bytes]) -> "DistinctCells":
        """The same with other bytes in some places."""
        if not values:
            return self
        places = np.fromiter(values, np.int64, len(values))
        ends = len(self.data) + np.cumsum([len(value) for value in values.values()])
        moved = self.starts.copy(), self.ends.copy()
        moved[0][places] = np.concatenate(([len(self.data)], ends[:-1]))
        moved[1][places] = ends
        more = np.frombuffer(b"".join(values.values()), np.uint8)
        return DistinctCells(self.row_value, np.concatenate((self.data, more)), *moved)


def distinct_cells(column: pa.DictionaryArray) -> DistinctCells:
    """Find the values that the rows of a dictionary column of `binary` use."""
    rows = _numbers(column.indices, missing=-1)
    values = column.dictionary
    if not len(values):
        none = np.zeros(0, np.int64)
        return DistinctCells(rows, np.zeros(0, np.uint8), none, none)
    _, offsets, data = values.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(values) + 1, 4 * values.offset).astype(np.int64)
    is_used = np.zeros(len(values) + 1, bool)
    is_used[rows] = True  # the last place is that of the null, -1
    used = np.flatnonzero(is_used[:-1])
    if len(used) < len(values):
        place = np.full(len(values) + 1, -1)
        place[used] = np.arange(len(used))
        rows = place[rows]
    held = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return DistinctCells(rows, held, bounds[used], bounds[used + 1])


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
