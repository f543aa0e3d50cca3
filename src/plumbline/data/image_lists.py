"""The images of a row in one cell: encoded files in the order of their places in the text.

A cell is the number of images, then of each its length and its bytes; a length of -1 stands for an
image that is named and not there. Numbers are int64, little-endian.
"""

import struct
from collections.abc import Sequence

_NUMBER = struct.Struct("<q")
_MISSING = -1


class BadImageList(ValueError):  # noqa: N818  (it says what the value is, not that there is an error)
    """Bytes that hold no images; the text says why."""


def pack_images(images: Sequence[bytes | None]) -> bytes:
    """Write images into one cell; None where one is not there."""
    pieces = [_NUMBER.pack(len(images))]
    for image in images:
        pieces.append(_NUMBER.pack(_MISSING if image is None else len(image)))
        pieces.append(image or b"")
    return b"".join(pieces)


def unpack_images(cell: bytes) -> list[bytes | None]:
    """Read the images of a cell.

    Raises:
        BadImageList: it holds something else.
    """
    count, at = _number(cell, 0)
    if count < 1:
        raise BadImageList(f"{count} images")
    images: list[bytes | None] = []
    for _ in range(count):
        length, at = _number(cell, at)
        if length < _MISSING or length > len(cell) - at:
            raise BadImageList("cut off")
        images.append(None if length == _MISSING else cell[at : at + length])
        at += max(0, length)
    if at != len(cell):
        raise BadImageList(f"{len(cell) - at} bytes behind its images")
    return images


def clean_images(cell: bytes) -> list[bytes]:
    """The images of a cell that validation has passed: all of them are there."""
    return [image for image in unpack_images(cell) if image is not None]


def _number(cell: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    end = at + _NUMBER.size
    if end > len(cell):
        raise BadImageList("cut off")
    return _NUMBER.unpack_from(cell, at)[0], end
