"""Files of Parquet that go on: row groups of one file in front of those of another.

pyarrow writes no file on. A footer is a Thrift struct in the compact protocol; its row groups are
copied here as they stand, but for the places of what they name.

Source: github.com/apache/parquet-format, parquet.thrift; Thrift's compact protocol.
"""

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from plumbline.data.thrift import ThriftReader

_MAGIC = b"PAR1"
_NUM_ROWS, _ROW_GROUPS = 3, 4
_I64, _LIST, _STRUCT = 6, 9, 12
_COPIED_BYTES = 2**20

Offsets = Mapping[int, "Offsets | None"]
_PLACES: Offsets = {1: {2: None, 3: {9: None, 10: None, 11: None}}, 5: None}
"""Fields of a row group that are places in the file: its own, its chunks', and their pages'."""


class _Footer(NamedTuple):
    head: bytes
    """In front of the number of rows."""
    rows: int
    groups: list[bytes]
    tail: bytes
    """Behind the row groups."""
    start: int
    """Where it begins in its file."""


def join_files(first: Path, groups: int, end: int, behind: Path, path: Path) -> None:
    """Write a file of the first row groups of one and all of another with the same schema.

    Args:
        first: the file whose row groups stand in front.
        groups: how many of them.
        end: where they end.
        behind: the other file.
        path: the file to write.

    Raises:
        ValueError: a footer is not as pyarrow writes it.
    """
    shutil.copyfile(first, path)  # the system copies for a tenth of what reading and writing cost
    with first.open("rb") as one, behind.open("rb") as other, path.open("r+b") as file:
        kept, more = _read_footer(one), _read_footer(other)
        file.truncate(end)
        file.seek(end)
        _copy(other, len(_MAGIC), more.start, file)
        moved = [_moved(group, end - len(_MAGIC)) for group in more.groups]
        listed = [*kept.groups[:groups], *moved]
        rows = more.rows + sum(map(_count_rows, kept.groups[:groups]))
        size = len(listed)
        count = bytes([size << 4 | _STRUCT]) if size < 15 else bytes([0xFC]) + _varint(size)
        footer = b"".join(
            [
                *(more.head, bytes([1 << 4 | _I64]), _varint(2 * rows)),
                *(bytes([1 << 4 | _LIST]), count, *listed, more.tail),
            ]
        )
        file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)


def _copy(source: BinaryIO, start: int, end: int, file: BinaryIO) -> None:
    source.seek(start)
    while part := source.read(min(end - start, _COPIED_BYTES)):
        file.write(part)
        start += len(part)


def _read_footer(file: BinaryIO) -> _Footer:
    place = file.seek(-8, 2)
    (length,) = struct.unpack("<I", file.read(4))
    file.seek(place - length)
    data = file.read(length)
    reader = ThriftReader(data)
    head, rows, number = 0, -1, 0
    while mark := reader.byte():
        number += mark >> 4
        if number == _NUM_ROWS and mark == 1 << 4 | _I64:
            head, rows = reader.place - 1, reader.zigzag()
        elif number == _ROW_GROUPS and mark == 1 << 4 | _LIST:
            groups = [_cut_struct(reader) for _ in range(_list_size(reader))]
            return _Footer(data[:head], rows, groups, data[reader.place :], place - length)
        else:
            reader.skip(mark & 15)
    raise ValueError("a footer without the number of rows in front of row groups")


def _list_size(reader: ThriftReader) -> int:
    mark = reader.byte()
    return reader.varint() if mark >> 4 == 15 else mark >> 4


def _cut_struct(reader: ThriftReader) -> bytes:
    start = reader.place
    reader.skip(_STRUCT)
    return reader.data[start : reader.place]


def _count_rows(group: bytes) -> int:
    rows = ThriftReader(group).struct()[3]
    assert isinstance(rows, int), "a row group counts its rows"
    return rows


def _moved(group: bytes, shift: int) -> bytes:
    """A row group whose places lie `shift` further on."""
    out = bytearray()
    _move(ThriftReader(group), out, _PLACES, shift)
    return bytes(out)


def _move(reader: ThriftReader, out: bytearray, places: Offsets, shift: int) -> None:
    """Copy a struct; the numbers at `places` become larger, unless they are 0 and say nothing."""
    number = 0
    while True:
        mark = reader.byte()
        out.append(mark)
        if not mark:
            return
        number += mark >> 4
        start, kind = reader.place, mark & 15
        if number not in places:
            reader.skip(kind)
            out += reader.data[start : reader.place]
            continue
        inner = places[number]
        if inner is None:
            value = reader.zigzag()
            out += _varint(2 * (value + shift)) if value else b"\0"
        elif kind == _LIST:
            size = _list_size(reader)
            out += reader.data[start : reader.place]
            for _ in range(size):
                _move(reader, out, inner, shift)
        else:
            _move(reader, out, inner, shift)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
