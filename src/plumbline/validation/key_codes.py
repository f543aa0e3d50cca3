"""Numbers for keys of rows: equal ones for equal keys alone, in memory that rows do not fill."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.validation.digests import Bytes, Longs

Number = TypeVar("Number", bound=np.generic)

KEYS_AT_ONCE = 2**18
"""Keys that are compared with one another in memory, which takes some 20 MB."""
ARRAY_BYTES = 2**28
"""An array of rows that takes more lies in a file, and in memory as far as there is room."""
_MIX = 0x9E3779B97F4A7C15


def row_array(folder: Path, rows: int, kind: type[Number], fill: float = 0) -> NDArray[Number]:
    """An array of rows; a large one is a nameless file of `folder`."""
    size = rows * np.dtype(kind).itemsize
    if size <= ARRAY_BYTES:
        return np.full(rows, fill, kind)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        array: NDArray[Number] = np.memmap(file, kind, "r+", shape=(rows,))
    if fill:
        array[:] = fill
    return array


class KeyCodes:
    """Gives each distinct key a number; keys wait in files, each in one of several by its hash."""

    def __init__(self, folder: Path, width: int, most: int) -> None:
        """Expect about `most` keys of `width` bytes."""
        self._folder, self._width = folder, width
        self._kind = np.dtype([("place", np.int64), ("key", np.uint8, (width,))])
        self._files: list[BinaryIO] = [
            tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for _ in range(1 + most // KEYS_AT_ONCE)
        ]

    def add(self, places: Longs, keys: Bytes) -> None:
        """Add keys [places, width], each with the place that its number is to have."""
        records = np.empty(len(places), self._kind)
        records["place"], records["key"] = places, keys
        if len(self._files) == 1:
            self._files[0].write(records.data)
            return
        file_of = self._hash(keys) % np.uint64(len(self._files))
        order = np.argsort(file_of, kind="stable")
        bounds = np.searchsorted(file_of[order], np.arange(len(self._files) + 1))
        for file, start, end in zip(self._files, bounds, bounds[1:], strict=False):
            if end > start:
                file.write(records[order[start:end]].data)

    def _hash(self, keys: Bytes) -> NDArray[np.uint64]:
        words = np.zeros((len(keys), -(-self._width // 8) * 8), np.uint8)
        words[:, : self._width] = keys
        found = np.zeros(len(keys), np.uint64)
        for word in words.view(np.uint64).T:
            found = (found ^ word) * np.uint64(_MIX)
            found ^= found >> np.uint64(32)
        return found

    def distinct(self, codes: NDArray[np.int32 | np.int64]) -> Iterator[pa.FixedSizeBinaryArray]:
        """Write each key's number to its place in `codes`; yield the distinct keys, in order."""
        count = 0
        for file in self._files:
            size = file.tell() // self._kind.itemsize
            file.seek(0)
            records = np.fromfile(file, self._kind, size)
            file.close()
            keys = pa.py_buffer(np.ascontiguousarray(records["key"]))
            column = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(self._width), size, [None, keys]
            ).dictionary_encode()
            codes[records["place"]] = column.indices.to_numpy() + count
            count += len(column.dictionary)
            yield column.dictionary
