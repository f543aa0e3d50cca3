"""Parquet files that lie: taken apart, altered in a header or the footer, and put together again.

Whatever is not altered is as the writer left it, and places in the file fit what was made longer,
so that a file has the lies that it was given and no others.

Source: github.com/apache/parquet-format, parquet.thrift; Thrift's compact protocol.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = (*range(1, 11), 12)

Fields = dict[int, tuple[int, object]]
"""Number of a field -> its type and its value; a list is the type of its items and these."""


@dataclass
class Page:
    """A page as it is stored."""

    header: Fields
    body: bytes


@dataclass
class Forged:
    """A file in its pieces."""

    footer: Fields
    chunks: list[list[list[Page]]]
    """By row group and column."""

    def group(self, number: int = 0) -> Fields:
        """What the footer says of a row group."""
        return items(self.footer, 4)[number]

    def column(self, number: int, group: int = 0) -> Fields:
        """What the footer says of a column of a row group."""
        return fields(items(self.group(group), 1)[number], 3)

    def to_bytes(self) -> bytes:
        """Put it together; places and stored sizes in the footer are those of the pages."""
        return self.end(self.pages())

    def pages(self) -> bytes:
        """Write all that stands in front of the footer, which is made to fit."""
        out = bytearray(b"PAR1")
        for number, chunks in enumerate(self.chunks):
            for at, pages in enumerate(chunks):
                facts, start = self.column(at, number), len(out)
                facts[9] = I64, start  # the first data page, behind the dictionary if there is one
                for page in pages:
                    if page.header[1][1] == 2:
                        facts[11] = I64, len(out)
                        facts[9] = I64, len(out) + len(encode(page.header)) + len(page.body)
                    out += encode(page.header) + page.body
                facts[7] = I64, len(out) - start
        return bytes(out)

    def end(self, front: bytes) -> bytes:
        """Write the footer behind what stands in front of it."""
        footer = encode(self.footer)
        return front + footer + struct.pack("<I", len(footer)) + b"PAR1"


def take_apart(data: bytes) -> Forged:
    """Take a file apart that a writer made."""
    (length,) = struct.unpack("<I", data[-8:-4])
    footer, _ = decode(data, len(data) - 8 - length)
    forged = Forged(footer, [])
    for number in range(len(items(footer, 4))):
        group = items(footer, 4)[number]
        forged.chunks.append([])
        for chunk in items(group, 1):
            facts = fields(chunk, 3)
            start = min(number_in(facts, at) for at in (9, 11) if at in facts)
            forged.chunks[-1].append(_pages(data, start, start + number_in(facts, 7)))
    return forged


def _pages(data: bytes, start: int, stop: int) -> list[Page]:
    pages = []
    while start < stop:
        header, body = decode(data, start)
        start = body + number_in(header, 3)
        pages.append(Page(header, data[body:start]))
    return pages


def fields(of: Fields, number: int) -> Fields:
    """A struct within a struct."""
    found = of[number][1]
    assert isinstance(found, dict)
    return found


def items(of: Fields, number: int) -> list[Fields]:
    """The items of a list within a struct."""
    found = of[number][1]
    assert isinstance(found, tuple)
    return list(found[1])


def number_in(of: Fields, number: int) -> int:
    """A number within a struct."""
    found = of[number][1]
    assert isinstance(found, int)
    return found


def set_to(of: Fields, path: Sequence[int], change: Callable[[int], int]) -> None:
    """Give a number below a struct another value; its type stays."""
    for number in path[:-1]:
        of = fields(of, number)
    of[path[-1]] = of[path[-1]][0], change(number_in(of, path[-1]))


def decode(data: bytes, at: int) -> tuple[Fields, int]:
    """Read a struct; returns it with the place behind it."""
    found: Fields = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        value, at = _value(data, at, head & 15)
        found[number] = head & 15, value
    return found, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[object, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return data[at], at + 1
    if kind in (I16, I32, I64):
        return _zigzag(data, at)
    if kind == DOUBLE:
        return data[at : at + 8], at + 8
    if kind == BINARY:
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == STRUCT:
        return decode(data, at)
    count, item = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    values = []
    for _ in range(count):
        value, at = (data[at], at + 1) if item in (TRUE, FALSE) else _value(data, at, item)
        values.append(value)
    return (item, values), at


def encode(of: Fields) -> bytes:
    """Write a struct."""
    out, before = bytearray(), 0
    for number, (kind, value) in sorted(of.items()):
        if isinstance(value, bool):
            kind = TRUE if value else FALSE
        step = number - before
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _write_int(number)
        out += _encode_value(kind, value)
        before = number
    return bytes(out) + b"\0"


def _encode_value(kind: int, value: object) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if isinstance(value, bytes):
        return (_write_varint(len(value)) if kind == BINARY else b"") + value
    if isinstance(value, dict):
        return encode(value)
    if isinstance(value, tuple):
        item, values = value
        count = len(values)
        head = bytes([count << 4 | item]) if count < 15 else bytes([0xF0 | item])
        more = b"" if count < 15 else _write_varint(count)
        plain = item in (TRUE, FALSE)
        return (
            head
            + more
            + b"".join(bytes([one]) if plain else _encode_value(item, one) for one in values)
        )
    assert isinstance(value, int)
    return bytes([value]) if kind == BYTE else _write_int(value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
        shift += 7


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


def _write_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _write_int(number: int) -> bytes:
    return _write_varint(number << 1 if number >= 0 else (-number << 1) - 1)
