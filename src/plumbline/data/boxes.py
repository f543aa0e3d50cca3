"""The boxes that an AVIF file consists of."""

import struct
from collections.abc import Collection, Iterator

from .undecodable import TooCostlyError, UndecodableError

MAX_BOXES = 4096
AVIF_PROPERTIES = (b"meta", b"iprp", b"ipco")
"""Boxes that lead to the properties of images."""

_VERSIONED = (b"meta",)
"""Boxes whose content begins with a version and flags."""


def iter_boxes(
    data: bytes, start: int, stop: int, into: Collection[bytes] = ()
) -> Iterator[tuple[bytes, int, int]]:
    """Walk boxes: type, where its content begins, where it ends; those of `into` are entered.

    Raises:
        UndecodableError: a box is longer than what holds it.
        TooCostlyError: there are more boxes than an image has.
    """
    waiting, seen = [(start, stop)], 0
    while waiting:
        position, stop = waiting.pop()
        while position + 8 <= stop:
            seen += 1
            if seen > MAX_BOXES:
                raise TooCostlyError(f"more than {MAX_BOXES} boxes")
            size, kind = struct.unpack_from(">I4s", data, position)
            content = position + 8
            if size == 1 and content + 8 <= stop:
                (size,) = struct.unpack_from(">Q", data, content)
                content += 8
            end = stop if size == 0 else position + size
            if end < content or end > stop:
                raise UndecodableError(f"a box of {size} bytes, where {stop - position} are left")
            yield kind, content, end
            if kind in into:
                waiting.append((content + (4 if kind in _VERSIONED else 0), end))
            position = end
