"""Which images of a column are good beyond doubt, found over all of them at once.

What is said here is what `image_check` says, at the levels that decode nothing; images of which
nothing is said are for it to look at.
"""

import numpy as np
from numpy.typing import NDArray

from plumbline.data.byte_columns import SPAN_BYTES, DistinctCells
from plumbline.data.image_parts import (
    JPEG_BYTES_A_PIXEL,
    JPEG_NS_A_BYTE,
    JPEG_NS_A_PIXEL,
    MAX_PIXELS,
)
from plumbline.data.undecodable import MAX_MEMORY, MAX_WORK_NS
from plumbline.validation.image_check import ImageLimits

Bools = NDArray[np.bool_]
Longs = NDArray[np.int64]

_HEAD = 12
_MAGICS: tuple[tuple[tuple[int, bytes], ...], ...] = (
    ((0, b"\x89PNG\r\n\x1a\n"),),
    ((0, b"\xff\xd8\xff"),),
    ((0, b"GIF87a"),),
    ((0, b"GIF89a"),),
    ((0, b"RIFF"), (8, b"WEBP")),
    ((0, b"II*\x00"),),
    ((0, b"MM\x00*"),),
    ((0, b"II+\x00"),),
    ((0, b"MM\x00+"),),
    ((4, b"ftypavif"),),
    ((4, b"ftypmif1"),),
    ((0, b"BM"),),
)
_SEGMENTS = 32
"""Of a JPEG in front of its scan; one with more is looked at alone."""
_SCAN, _FRAMES = 0xDA, (0xC0, 0xC1)
_BEFORE_SCAN = np.zeros(256, bool)
"""Markers of a baseline JPEG: frame, tables, restart interval, comments, and what programs add."""
_BEFORE_SCAN[[*_FRAMES, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE, _SCAN]] = True
_MARKERS = np.zeros(256, bool)
"""Second bytes of markers in a scan: neither an escaped byte, nor a restart, nor a fill byte."""
_MARKERS[[*range(0x01, 0xD0), *range(0xD8, 0xFF)]] = True
_END = 0xD9


def plain_images(cells: DistinctCells, limits: ImageLimits) -> Bools:
    """Which of the distinct values are good beyond doubt: [values]."""
    fits = (cells.lengths > 0) & (cells.lengths <= limits.max_bytes)
    if limits.level == "cheap":
        return fits & _have_magic(cells)
    if limits.level == "header":
        return _plain_jpegs(cells, limits, fits)
    return np.zeros(len(fits), bool)


def _have_magic(cells: DistinctCells) -> Bools:
    heads = cells.heads(_HEAD)
    found = np.zeros(len(heads), bool)
    for parts in _MAGICS:
        is_this = np.ones(len(heads), bool)
        for start, magic in parts:
            given = np.ascontiguousarray(heads[:, start : start + len(magic)])
            # Zeros at the end do not count in such an array: the length says that they are there.
            is_this &= given.view(f"S{len(magic)}")[:, 0] == magic
            is_this &= cells.lengths >= start + len(magic)
        found |= is_this
    return found


def _plain_jpegs(cells: DistinctCells, limits: ImageLimits, fits: Bools) -> Bools:
    """JPEGs of one baseline frame and one scan whose segments follow one another without a gap."""
    data, plain = cells.data, np.zeros(len(fits), bool)
    at = np.flatnonzero(fits & (cells.lengths > 4))
    at = at[(data[cells.starts[at]] == 0xFF) & (data[cells.starts[at] + 1] == 0xD8)]
    # Place of the next segment, and of the frame's, of the images that are still plain.
    place, frame = cells.starts + 2, np.zeros(len(fits), np.int64)
    for _ in range(_SEGMENTS):
        at = at[place[at] + 4 <= cells.ends[at]]
        here = place[at]
        marker, length = data[here + 1], _number(data, here + 2)
        behind = here + 2 + length
        is_frame = np.isin(marker, _FRAMES)
        good = (data[here] == 0xFF) & _BEFORE_SCAN[marker]
        good &= (length >= 2) & (behind <= cells.ends[at])
        good &= ~is_frame | ((length >= 8) & (frame[at] == 0))
        frame[at[good & is_frame]] = here[good & is_frame]
        place[at] = behind
        plain[at[good & (marker == _SCAN) & (frame[at] > 0)]] = True
        at = at[good & (marker != _SCAN)]
    at = np.flatnonzero(plain)
    plain[at] = _are_affordable(cells, limits, at, frame[at]) & _end_after_scan(cells, at, place)
    return plain


def _are_affordable(cells: DistinctCells, limits: ImageLimits, at: Longs, frame: Longs) -> Bools:
    """Whether size and cost are within the limits, by the weights of `check_image_cost`."""
    height, width = _number(cells.data, frame + 5), _number(cells.data, frame + 7)
    pixels = height * width
    work = pixels * JPEG_NS_A_PIXEL + cells.lengths[at] * JPEG_NS_A_BYTE
    return np.asarray(
        (np.minimum(height, width) >= limits.min_side_px)
        & (pixels <= min(limits.max_pixels, MAX_PIXELS))
        & (pixels * JPEG_BYTES_A_PIXEL <= MAX_MEMORY)
        & (work <= MAX_WORK_NS)
    )


def _end_after_scan(cells: DistinctCells, at: Longs, scan: Longs) -> Bools:
    """Whether no other marker than that of the end follows the scan's data."""
    if not len(at):
        return np.zeros(0, bool)
    first, last = int(cells.starts[at].min()), int(cells.ends[at].max())
    if last - first > SPAN_BYTES:
        return np.zeros(len(at), bool)
    data = cells.data[first:last]
    found = np.flatnonzero(data[:-1] == 0xFF)  # one byte in some hundred: what follows is looked up
    found = found[_MARKERS[data[found + 1]]]
    kinds = np.append(data[found + 1], _END)
    found = np.append(found, len(data)) + first
    following = np.searchsorted(found, scan[at])
    # The second byte of a marker that begins with the last byte is not of this image.
    return np.asarray((found[following] + 1 >= cells.ends[at]) | (kinds[following] == _END))


def _number(data: NDArray[np.uint8], place: Longs) -> Longs:
    return data[place].astype(np.int64) << 8 | data[place + 1]
