"""What of a TIFF file reaches the decoder: the first page, without all that is no pixel."""

import math
import re
import struct

from .parts import Parts
from .tiff_entries import (
    BITS,
    COMPRESSION,
    HEIGHT,
    MAX_VALUE,
    ORIENTATION,
    PHOTOMETRIC,
    PLANES,
    ROWS_PER_STRIP,
    SAMPLE_FORMAT,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_WIDTH,
    WIDTH,
    XMP,
    Entry,
    read_layout,
    tiff_entries,
)
from .undecodable import TooCostlyError, UndecodableError

# 2, 3, 4: fax codes; 5: LZW; 7: JPEG; 8 and 32946: deflate; 32773: runs; 50000: Zstandard
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)
_RAW, _JPEG = 1, 7
_WHITE_IS_ZERO, _UNSIGNED = 0, 1

_KEPT = frozenset(
    {
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, SAMPLE_FORMAT),
        *(STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES),
        *(TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES),
        # Fill order, fax options, predictor, colour map, extra samples, tables of JPEG strips, and
        # how YCbCr is meant.
        *(266, 292, 293, 317, 320, 338, 347, 529, 530, 531, 532),
    }
)
_MAX_VALUE_BYTES = 2**20
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def tiff_parts(data: bytes) -> Parts:
    """Walk the first page of a TIFF file.

    Raises:
        UndecodableError: its samples or its coding are not read.
        TooCostlyError: its strips or tiles are too many, or overlap.
        struct.error, IndexError: it is cut off or damaged.
    """
    entries = list(tiff_entries(data))
    numbers = {
        entry.tag: found
        for entry in entries
        if entry.tag in _KEPT | {MAX_VALUE, ORIENTATION} and (found := entry.numbers(data))
    }
    if WIDTH not in numbers or HEIGHT not in numbers:
        raise UndecodableError("TIFF: no width and height")
    width, height = numbers[WIDTH][0], numbers[HEIGHT][0]
    coding = numbers.get(COMPRESSION, (_RAW,))[0]
    bits = _check_samples(numbers, coding)
    pieces, piece_bytes = _pieces(numbers, width, height, bits)
    ranges = _ranges(numbers)
    if coding != _RAW and sum(length for _, length in ranges) > len(data):
        raise TooCostlyError("TIFF: strips or tiles that overlap are not read")
    if coding == _JPEG:
        _check_jpeg(data, ranges)
    pixels = width * height
    packed = 0 if coding == _RAW else len(data)
    highest = numbers.get(MAX_VALUE, (0,))[0]
    return Parts(
        *("TIFF", _clean(data, entries), width, height),
        memory=max(4 * pixels + piece_bytes + packed, 9 * pixels),
        work_ns=10 * pixels + 5 * pieces * piece_bytes + 25 * packed + 20_000 * pieces,
        bits=max(bits),
        max_value=highest or (2 ** max(bits) - 1 if 8 < max(bits) < 16 else 0),
        exif=_orientation_alone(numbers),
        xmp=_xmp(data, entries),
        why=f" in {pieces} strips or tiles",
    )


def _check_samples(numbers: dict[int, tuple[int, ...]], coding: int) -> tuple[int, ...]:
    """The bits of each sample of a pixel; refuses what cannot be brought to 8 bits."""
    samples = numbers.get(SAMPLES, (1,))[0]
    bits = numbers.get(BITS, (1,))
    bits = bits * samples if len(bits) == 1 else bits
    kinds = set(numbers.get(SAMPLE_FORMAT, (_UNSIGNED,)))
    if kinds != {_UNSIGNED} or max(bits) > 16:
        names = {1: "unsigned", 2: "signed", 3: "float"}
        kind = names.get(max(kinds), "unknown")
        raise UndecodableError(
            f"TIFF of {kind} samples of {max(bits)} bits: unsigned ones of 16 bits at most are read"
        )
    if max(bits) == 16 and numbers.get(PHOTOMETRIC) == (_WHITE_IS_ZERO,):
        raise UndecodableError("TIFF of 16 bits with white as zero is not read")
    if coding not in _COMPRESSIONS:
        raise UndecodableError(f"TIFF of compression {coding} is not read")
    return bits


def _pieces(
    numbers: dict[int, tuple[int, ...]], width: int, height: int, bits: tuple[int, ...]
) -> tuple[int, int]:
    """How many strips or tiles are decoded, and the bytes of each."""
    planes = len(bits) if numbers.get(PLANES) == (2,) else 1
    depth = sum(bits) // planes
    if TILE_OFFSETS in numbers:
        wide, high = numbers.get(TILE_WIDTH, (0,))[0], numbers.get(TILE_HEIGHT, (0,))[0]
        if not (wide and high):
            raise UndecodableError("TIFF: tiles without a size")
        count = math.ceil(width / wide) * math.ceil(height / high)
    else:
        wide, high = width, min(numbers.get(ROWS_PER_STRIP, (height,))[0], height) or height
        count = math.ceil(height / high) if high else 0
    return count * planes, (wide * depth + 7) // 8 * high


def _ranges(numbers: dict[int, tuple[int, ...]]) -> list[tuple[int, int]]:
    offsets = numbers.get(TILE_OFFSETS) or numbers.get(STRIP_OFFSETS, ())
    lengths = numbers.get(TILE_BYTES) or numbers.get(STRIP_BYTES, ())
    return list(zip(offsets, lengths, strict=False))


def _check_jpeg(data: bytes, ranges: list[tuple[int, int]]) -> None:
    """Refuse JPEG strips with more scans than a baseline picture has."""
    for start, length in ranges:
        scans = 0
        for found in _MARKER.finditer(data, start, start + length):
            marker = data[found.end() - 1]
            scans += marker == 0xDA
            progressive = 0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
            if progressive or scans > 4:
                raise TooCostlyError("TIFF of progressive JPEG, or of repeated scans, is not read")


def _clean(data: bytes, entries: list[Entry]) -> bytes:
    """The file with its first page alone, and of that the entries that pixels need.

    Decoders follow the chain of pages and read every entry, of which each may name all bytes of
    the file.
    """
    order, big, first = layout = read_layout(data)
    kept = [entry for entry in entries if entry.tag in _KEPT]
    if any(entry.size > _MAX_VALUE_BYTES for entry in kept):
        raise TooCostlyError(f"TIFF: an entry of more than {_MAX_VALUE_BYTES} bytes")
    at = first + layout.count_bytes
    end = at + len(entries) * layout.step
    table = [data[entry.start : entry.start + layout.step] for entry in kept]
    no_next = bytes(8 if big else 4)
    filled = b"".join([*table, no_next]).ljust(end + len(no_next) - at, b"\0")
    count = struct.pack(order + ("Q" if big else "H"), len(kept))
    return b"".join([data[:first], count, filled, data[end + len(no_next) :]])


def _orientation_alone(numbers: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF structure that holds the orientation of this one, or nothing."""
    if ORIENTATION not in numbers:
        return b""
    value = numbers[ORIENTATION][0] & 0xFFFF
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, value, 0, 0)


def _xmp(data: bytes, entries: list[Entry]) -> bytes:
    found = next((entry for entry in entries if entry.tag == XMP), None)
    return b"" if found is None else data[found.place : found.place + found.size]
