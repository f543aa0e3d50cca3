"""The entries of a TIFF file's first page, which is also how EXIF is written."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .undecodable import TooCostlyError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
MAX_VALUE, PLANES = 281, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
SAMPLE_FORMAT, XMP = 339, 700

MAX_ENTRIES = 1024
MAX_NUMBERS = 2**16
"""Most numbers of one entry that are looked at: strips, or tiles."""

_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


class Entry(NamedTuple):
    """One entry: a tag, and where its value lies."""

    order: str
    """< or >."""
    tag: int
    kind: int
    length: int
    """How many values of its kind it has."""
    place: int
    """Of the value's first byte."""
    start: int
    """Of the entry itself."""

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return self.length * (_SIZES[self.kind] if self.kind < len(_SIZES) else 0)

    def numbers(self, data: bytes) -> tuple[int, ...]:
        """The value as whole numbers; none where it is something else.

        Raises:
            TooCostlyError: there are more than any image has.
            struct.error: it lies beyond the end of the bytes.
        """
        if self.kind not in _NUMBERS:
            return ()
        if self.length > MAX_NUMBERS:
            raise TooCostlyError(f"{self.length} strips or tiles, allowed are {MAX_NUMBERS}")
        return struct.unpack_from(
            f"{self.order}{self.length}{_NUMBERS[self.kind]}", data, self.place
        )


class Layout(NamedTuple):
    """How the bytes of a file are to be read, and where its first page is listed."""

    order: str
    big: bool
    """Whether offsets have 64 bits."""
    first: int

    @property
    def count_bytes(self) -> int:
        """Of the number of entries."""
        return 8 if self.big else 2

    @property
    def step(self) -> int:
        """Bytes of an entry."""
        return 20 if self.big else 12


def read_layout(data: bytes) -> Layout:
    """Read the first bytes of a TIFF file or of EXIF.

    Raises:
        struct.error: there are too few.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return Layout(order, big, first)


def tiff_entries(data: bytes) -> Iterator[Entry]:
    """Walk the entries of the first page.

    Raises:
        TooCostlyError: there are more than any image has.
        struct.error, IndexError: an offset lies beyond the end of the bytes.
    """
    order, big, first = layout = read_layout(data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, first)
    if count > MAX_ENTRIES:
        raise TooCostlyError(f"{count} entries, allowed are {MAX_ENTRIES}")
    at = first + layout.count_bytes
    for start in range(at, at + count * layout.step, layout.step):
        tag, kind, numbers = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, start)
        value = start + (12 if big else 8)
        entry = Entry(order, tag, kind, numbers, value, start)
        if entry.size > (8 if big else 4):
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
            entry = entry._replace(place=place)
        yield entry
