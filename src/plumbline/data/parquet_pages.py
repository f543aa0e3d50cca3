"""What the pages of a Parquet file take once they are unpacked, from their headers alone.

pyarrow says nothing about pages, and ends the process when it is asked for a column chunk of some
damaged footers. So footer and page headers, which are Thrift structs in the compact protocol, are
read here; no page is unpacked.

Source: github.com/apache/parquet-format, parquet.thrift; Thrift's compact protocol.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from plumbline.data.columns import MAX_CELL_BYTES

MAX_PAGE_BYTES = MAX_CELL_BYTES + 2**16
"""A page may unpack to so many bytes, or else to `MAX_RATIO` times what is stored of it. There is
room for the largest cell and what a page has besides."""
MAX_RATIO = 16
ALLOWED = f"where a cell may have {MAX_CELL_BYTES}; take the row out, or split what it holds"

_WINDOW_BYTES = 2**12
_KEPT_BYTES = 2**20
"""A larger footer is not kept in memory."""
_MAX_HEADER_BYTES = 2**24
"""As in Arrow: statistics in a header may hold whole cells."""
_MAX_DEPTH = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    12,
)
_INTEGERS = (_I32, _I64, _I16)
_DICTIONARY_PAGE = 2
_DICTIONARY_ENCODINGS = (2, 8)
_DELTA_BYTE_ARRAY = 7
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Physical type of numbers -> bytes of a value."""

Value = TypeVar("Value")

Struct = dict[int, object]
"""Number of a field -> its value."""


class Chunk(NamedTuple):
    """A column of a row group, once unpacked."""

    name: str
    """The path in the schema, with dots."""
    size: int
    """Bytes of all its values; those that a dictionary gives to many rows count once."""
    shared: int
    """No value that is stored once for many rows has more bytes than this."""
    only_dictionary: bool
    """Whether every text or value of bytes comes from a dictionary."""


class BadPage(ValueError):  # noqa: N818  (what is bad is the file)
    """A page that is not read, because of what it would take; the text says which."""


def read_chunks(
    path: Path, columns: Sequence[str], groups: range | None = None
) -> Iterator[list[Chunk]]:
    """Measure what the columns take in each row group; a name stands for all that is below it.

    Args:
        path: the file.
        columns: names in its schema.
        groups: numbers of the row groups; None for all.

    Raises:
        ValueError: footer or headers are damaged.
        BadPage: a page unpacks to more than the limits allow.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        (length,) = struct.unpack("<I", _read(file, size - 8, 4))
        data = _read(file, size - 8 - length, length)
        # Whoever reads a file in several shards asks for its footer once for each.
        footer = _kept_footer(data) if length <= _KEPT_BYTES else _parse_footer(data)
        for group in _list(footer, 4)[slice(groups.start, groups.stop) if groups else slice(None)]:
            rows = max(1, _int(group, 3))
            named = ((_name(facts), facts) for facts in map(_facts, _list(group, 1)))
            yield [
                _measure(file, name, facts, rows, size)
                for name, facts in named
                if any(f"{name}.".startswith(f"{column}.") for column in columns)
            ]


def _parse_footer(data: bytes) -> Struct:
    try:
        return ThriftReader(data).struct()
    except IndexError:
        raise ValueError("a footer without end") from None


_kept_footer = lru_cache(maxsize=2)(_parse_footer)


def _facts(chunk: object) -> Struct:
    return _struct(chunk, 3) or {}


def _name(facts: Struct) -> str:
    return ".".join(_text(part) for part in _list(facts, 3))


def _text(part: object) -> str:
    if not isinstance(part, bytes):
        raise ValueError("a column without a name")
    return part.decode("utf-8", "replace")


def _measure(file: BinaryIO, name: str, facts: Struct, rows: int, file_size: int) -> Chunk:
    width, count = _WIDTHS.get(_int(facts, 1)), _int(facts, 5)
    unpacked = shared = 0
    only_dictionary = True
    for header, packed in _pages(file, facts, file_size):
        page = _int(header, 2)
        unpacked += page
        kind = _struct(header, 7) or _struct(header, 5) or _struct(header, 8) or {}
        values = _int(kind, 1)
        if width is not None:
            if count > rows:  # lists, of which one row may have all; else a row has a number
                _check_page(name, values * width, packed, values)
            continue
        _check_page(name, page, packed, values)
        encoding = _int(kind, 4 if 8 in header else 2)
        is_dictionary = _int(header, 1) == _DICTIONARY_PAGE
        if is_dictionary or encoding == _DELTA_BYTE_ARRAY:  # which begins as the value before it
            shared = max(shared, page)
        only_dictionary &= is_dictionary or encoding in _DICTIONARY_ENCODINGS
    if width is None:
        return Chunk(name, unpacked, shared, only_dictionary)
    if count * width > MAX_PAGE_BYTES * rows:
        raise BadPage(f"column {name}: {count * width // rows} bytes a row, {ALLOWED}")
    return Chunk(name, count * width, 0, True)


def _check_page(name: str, unpacked: int, packed: int, values: int) -> None:
    if unpacked > MAX_PAGE_BYTES and unpacked > MAX_RATIO * packed:
        raise BadPage(
            f"column {name}: a page of {packed} bytes unpacks to {unpacked}, more than "
            f"{MAX_PAGE_BYTES} and {MAX_RATIO} times as many; write it in smaller pages if it "
            "is meant so"
        )
    if unpacked > MAX_PAGE_BYTES * max(1, values):
        raise BadPage(f"column {name}: a page of {unpacked} bytes with {values} values, {ALLOWED}")


def _pages(file: BinaryIO, facts: Struct, file_size: int) -> Iterator[tuple[Struct, int]]:
    """Yield the header of each page, and the bytes that are stored of it."""
    start, dictionary = _int(facts, 9), _int(facts, 11)
    if 0 < dictionary < start:
        start = dictionary
    stop, missing = min(start + _int(facts, 7), file_size), _int(facts, 5)
    while start < stop and missing > 0:
        header, length = _page_header(file, start)
        packed = _int(header, 3)
        if min(packed, _int(header, 2)) < 0:
            raise ValueError("a page of negative size")
        if _int(header, 1) != _DICTIONARY_PAGE:
            missing -= _int(_struct(header, 5) or _struct(header, 8) or {}, 1)
        yield header, packed
        start += length + packed


def _page_header(file: BinaryIO, start: int) -> tuple[Struct, int]:
    window = _WINDOW_BYTES
    while True:
        data = _read(file, start, window)
        reader = ThriftReader(data)
        try:
            return reader.struct(), reader.place
        except IndexError:
            if len(data) < window or window > _MAX_HEADER_BYTES:
                raise ValueError("a page header without end") from None
            window *= 16


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    if start < 0:
        raise ValueError("a place before the beginning")
    file.seek(start)
    return file.read(size)


def _int(fields: object, number: int) -> int:
    return int(_field(fields, number, int) or 0)


def _list(fields: object, number: int) -> list[object]:
    return list(_field(fields, number, list) or ())


def _struct(fields: object, number: int) -> Struct | None:
    return _field(fields, number, dict)


def _field(fields: object, number: int, kind: type[Value]) -> Value | None:
    value = fields.get(number) if isinstance(fields, dict) else None
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"field {number} is no {kind.__name__}")
    return value


class ThriftReader:
    """Thrift's compact protocol, as far as Parquet uses it; an IndexError at the end of bytes."""

    def __init__(self, data: bytes) -> None:
        """Begin in front."""
        self.data, self.place = data, 0

    def struct(self, depth: int = 0) -> Struct:
        """Read a struct to its end."""
        fields: Struct = {}
        number, data = 0, self.data
        while head := data[self.place]:
            self.place += 1
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            kind = head & 15
            # Most are numbers, of which a footer has some twenty for each column of a row group.
            fields[number] = self.zigzag() if kind in _INTEGERS else self.value(kind, depth)
        self.place += 1
        return fields

    def value(self, kind: int, depth: int = 0) -> object:
        """Read a value of a type."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        if kind in _INTEGERS:
            return self.zigzag()
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self.byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self.varint())
        if kind in (_LIST, _SET):
            return self._list(depth + 1)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"no type {kind} in a footer")

    def _list(self, depth: int) -> list[object]:
        head = self.byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self.varint()
        if kind in (_TRUE, _FALSE):  # in a list a truth value has a byte of its own
            return [self.byte() == _TRUE for _ in range(count)]
        return [self.value(kind, depth) for _ in range(count)]

    def byte(self) -> int:
        """Read a byte."""
        value = self.data[self.place]
        self.place += 1
        return value

    def _bytes(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise IndexError
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        """Read a number without a sign."""
        number = shift = 0
        while True:
            value = self.byte()
            number |= (value & 127) << shift
            if value < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a number without end")

    def zigzag(self) -> int:
        """Read a number with a sign."""
        number = self.data[self.place]
        if number < 128:  # as most are
            self.place += 1
        else:
            number = self.varint()
        return (number >> 1) ^ -(number & 1)
