"""What of an AVIF file reaches the decoder, and the size of the pictures that are coded in it.

The size that the container names is not what is decoded: every coded item, a tile, a plane of
alpha or a preview, has one of its own in the AV1 stream, and may hold several frames.
"""

import struct
from collections.abc import Iterator

from .boxes import AVIF_PROPERTIES, iter_boxes
from .parts import Parts
from .undecodable import TooCostlyError, UndecodableError

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
MAX_ITEMS = 1024
MAX_UNITS = 4096
"""Units of the AV1 stream of one item."""


def avif_parts(data: bytes) -> Parts:
    """Walk an AVIF file that holds one still picture.

    Raises:
        UndecodableError: it holds something else, or is damaged.
        TooCostlyError: it has more items or units than a picture.
        struct.error, IndexError: it is cut off or damaged.
    """
    boxes = list(iter_boxes(data, 0, len(data), into=AVIF_PROPERTIES))
    sizes = [struct.unpack_from(">II", data, at + 4) for kind, at, _ in boxes if kind == b"ispe"]
    places = [at for kind, at, _ in boxes if kind == b"iloc"]
    whole = [(at, end) for kind, at, end in boxes if kind == b"meta"]
    if len(whole) != 1 or len(places) != 1 or not sizes:
        raise UndecodableError("AVIF: not one still picture")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    coded = bytes_coded = 0
    for extents in _items(data, places[0]):
        item = b"".join(data[start:end] for start, end in extents)
        bytes_coded += len(item)
        if bytes_coded > len(data):
            raise TooCostlyError("AVIF: items that overlap are not read")
        coded += _coded_pixels(item)
    start, end = whole[0]
    # Of EXIF only the rotation would count, for which AVIF has properties of its own; to read it,
    # the decoder's wrapper would take whatever time and memory the entries ask for.
    head = data[start:end].replace(b"Exif", b"free")
    return Parts(
        *("AVIF", b"".join([data[:start], head, data[end:]]), width, height),
        memory=8 * width * height + 6 * coded,
        work_ns=50 * coded + 20 * width * height + 90 * len(data),
    )


def _items(data: bytes, at: int) -> Iterator[list[tuple[int, int]]]:
    """The byte ranges of each item: what the box `iloc` says."""
    version = data[at]
    sizes, more = data[at + 4], data[at + 5]
    offset_bytes, length_bytes, base_bytes = sizes >> 4, sizes & 15, more >> 4
    index_bytes = more & 15 if version else 0
    long = version == 2

    position = at + 6

    def number(count: int) -> int:
        nonlocal position
        position += count
        if position > len(data):
            raise UndecodableError("AVIF: cut off in the list of items")
        return int.from_bytes(data[position - count : position], "big")

    items = number(4 if long else 2)
    if items > MAX_ITEMS:
        raise TooCostlyError(f"AVIF of {items} items, allowed are {MAX_ITEMS}")
    for _ in range(items):
        number(4 if long else 2)
        if version and number(2) & 15:
            raise UndecodableError("AVIF: items outside the file's own bytes are not read")
        number(2)
        base, extents = number(base_bytes), list[tuple[int, int]]()
        for _ in range(min(number(2), MAX_ITEMS)):
            number(index_bytes)
            start = base + number(offset_bytes)
            extents.append((start, start + number(length_bytes) or len(data)))
        yield extents


def _coded_pixels(item: bytes) -> int:
    """Pixels that an AV1 stream has decoded, of all its frames; 0 for an item that is none."""
    position, frames, largest = 0, 0, 0
    for _ in range(MAX_UNITS):
        if position >= len(item):
            return largest * max(frames, 1)
        head = item[position]
        kind, position = head >> 3 & 15, position + (2 if head & 4 else 1)
        if head & 0x80 or not head & 2:
            return largest * max(frames, 1)  # no AV1, or a last unit without a length
        size = shift = 0
        while position < len(item) and shift < 56:
            byte = item[position]
            position, size, shift = position + 1, size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        if kind == _SEQUENCE:
            largest = max(largest, _sequence_pixels(item[position : position + min(size, 64)]))
        frames += kind in (_FRAME_HEADER, _FRAME)
        position += size
    raise TooCostlyError(f"AVIF: an item of more than {MAX_UNITS} units")


def _sequence_pixels(unit: bytes) -> int:
    """Width by height that a sequence header allows."""
    bits, left = int.from_bytes(unit, "big"), 8 * len(unit)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise UndecodableError("AVIF: a sequence header that is cut off")
        return bits >> left & (1 << count) - 1

    take(4)
    if take(1):  # a still picture's short form
        take(5)
    else:
        if take(1) or take(1):
            raise UndecodableError("AVIF: a film, not a still picture")
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
    wide, high = take(4) + 1, take(4) + 1
    return (take(wide) + 1) * (take(high) + 1)
