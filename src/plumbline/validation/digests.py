"""Digests of many values as one array, and columns of digests."""

import hashlib
from collections.abc import Iterable
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells
from plumbline.data.columns import MEDIA
from plumbline.validation.murmur import murmur3

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Longs = NDArray[np.int64]

DIGEST, MEDIUM = pa.binary(16), pa.binary(17)
"""Of a text or an id; of an image, clip or array, which begins with a byte for the column."""
_SHORT = 15
_MURMUR_BYTES = 128
"""Of longer values BLAKE2b takes less than numpy."""
_LONG_MARK, _PART_MARK = 255, 254


def digest_all(values: Iterable[bytes | memoryview], size: int = 16, salt: bytes = b"") -> Bytes:
    """Digests of values: [values, size]."""
    make = partial(hashlib.blake2b, digest_size=size, salt=salt)
    joined = b"".join([each.digest() for each in map(make, values)])
    return np.frombuffer(joined, np.uint8).reshape(-1, size)


def digest_media(column: str, values: Iterable[bytes | memoryview]) -> Bytes:
    """Digests of images, clips or arrays: [values, 17]."""
    found = digest_all(values)
    kind = np.full((len(found), 1), MEDIA.index(column), np.uint8)
    return np.concatenate((kind, found), axis=1)


def make_keys(cells: DistinctCells) -> Bytes:
    """Stand in for distinct values where only their being equal counts: [values, 16].

    A short value stands for itself, with its length behind it; a longer one is hashed.
    """
    keys = _short_keys(cells)
    long = np.flatnonzero(cells.lengths > _SHORT)
    keys[long, :_SHORT] = digest_all(cells.views(long), _SHORT)
    return keys


def make_counted_keys(cells: DistinctCells) -> Bytes:
    """As `make_keys`, in a fraction of the time, where being equal is only counted: [values, 16].

    Two values with one key can be made on purpose, and have none by chance.
    """
    keys = _short_keys(cells)
    long = np.flatnonzero((cells.lengths > _SHORT) & (cells.lengths <= _MURMUR_BYTES))
    some = cells._replace(starts=cells.starts[long], ends=cells.ends[long])
    keys[long, :_SHORT] = murmur3(some)[:, :_SHORT]
    longest = np.flatnonzero(cells.lengths > _MURMUR_BYTES)
    keys[longest, :_SHORT] = digest_all(cells.views(longest), _SHORT)
    return keys


def _short_keys(cells: DistinctCells) -> Bytes:
    """Keys of values that stand for themselves, and the mark of the others."""
    keys = np.empty((len(cells.starts), _SHORT + 1), np.uint8)
    keys[:, :_SHORT] = cells.heads(_SHORT)
    keys[:, _SHORT] = np.where(cells.lengths > _SHORT, _LONG_MARK, cells.lengths)
    return keys


def key_within(key: bytes, part: bytes) -> bytes:
    """The key of an id within a part that has a name."""
    digest = hashlib.blake2b(key + part, digest_size=_SHORT).digest()
    return digest + bytes([_PART_MARK])


def as_column(values: Bytes, there: Bools) -> pa.FixedSizeBinaryArray:
    """Make a column of digests [rows, bytes], null where there is none."""
    mask = pa.py_buffer(np.packbits(there, bitorder="little"))
    data = pa.py_buffer(np.ascontiguousarray(values))
    kind = pa.binary(values.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [mask, data])


def from_column(column: pa.FixedSizeBinaryArray) -> tuple[Bytes, Bools]:
    """Digests [rows, bytes] of a column, and where there is one: [rows]."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    first = column.offset * width
    values = data[first : first + len(column) * width].reshape(-1, width)
    return values, column.is_valid().to_numpy(zero_copy_only=False)


def name_groups(media: pa.FixedSizeBinaryArray) -> pa.BinaryArray:
    """Name the groups of rows that bring no group but share a medium; null without one."""
    values, there = from_column(media)
    names: pa.BinaryArray = pa.nulls(len(media), pa.binary())
    for code in np.unique(values[there, 0]).tolist():
        prefix = f"{MEDIA[code]}:".encode()
        these = there & (values[:, 0] == code)
        hexed = np.frombuffer(values[:, 1:].tobytes().hex().encode(), np.uint8)
        text = np.empty((len(values), len(prefix) + 32), np.uint8)
        text[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
        text[:, len(prefix) :] = hexed.reshape(-1, 32)
        names = names.fill_null(as_column(text, these).cast(pa.binary()))
    return names
