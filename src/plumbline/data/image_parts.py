"""What of an encoded image reaches the decoder, and what decoding that costs.

Each container is walked before a decoder sees it. Text, colour profiles, previews, further frames
and pages are left out: decoders spend time and memory on them that no pixel needs. What is left is
weighed by the work that it asks for, by weights measured with the worst images of each format
(`bench/decode_cost.py`).
"""

import binascii
import re
import struct
import zlib
from collections.abc import Callable
from typing import Literal

from .avif_parts import avif_parts
from .image_headers import read_header, sniff_format
from .parts import Parts
from .tiff_parts import tiff_parts
from .undecodable import (
    MAX_BYTES,
    MAX_MEMORY,
    MAX_WORK_NS,
    TooCostlyError,
    UndecodableError,
    check_bytes,
    hostile_bytes,
)

MAX_PIXELS = 25_000_000
"""5,000 x 5,000, of whatever format; formats that take more memory or time have less."""
MAX_PARTS = 20_000
"""Chunks, segments and blocks of a file, beside those that hold pixels."""
MAX_PIXEL_PARTS = 300_000
MAX_INFLATED = 2**20
"""Bytes that a packed text or colour profile may take; Pillow has the same limit."""
MAX_INFLATED_IN_ALL = 16 * 2**20


def check_image_cost(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Parts:
    """Walk an image's container without decoding it, and refuse what would cost too much.

    Args:
        data: an encoded image; any bytes.
        max_pixels: the most pixels; at most `MAX_PIXELS`.
        max_bytes: the most bytes of `data`; at most `undecodable.MAX_BYTES`.

    Raises:
        UndecodableError: the container is damaged or of no known format.
        TooCostlyError: decoding would take more than the limits allow.
    """
    check_bytes(len(data), max_bytes)
    allowed = min(max_pixels, MAX_PIXELS)
    if header := read_header(data):
        _check_pixels(*header, allowed)  # before the walk, which may find the rest damaged
    parts = _read_parts(data)
    _check_pixels(parts.format, parts.width, parts.height, allowed)
    return parts


def _check_pixels(name: str, width: int, height: int, allowed: int) -> None:
    if width * height > allowed:
        raise TooCostlyError(f"{name} of {width} x {height} pixels, allowed are {allowed} pixels")


def _read_parts(data: bytes) -> Parts:
    """Walk a container; errors as `check_image_cost`."""
    name = sniff_format(data)
    if name is None:
        raise UndecodableError(f"no known image format; first bytes {data[:8].hex()}")
    with hostile_bytes(f"{name}: the header is damaged or cut off"):
        parts = _READERS[name](data)
    size = f"{name} of {parts.width} x {parts.height} pixels"
    if parts.memory > MAX_MEMORY:
        needed = f"decoding takes some {parts.memory // 10**6} MB"
        raise TooCostlyError(f"{size}: {needed}, allowed are {MAX_MEMORY // 10**6}")
    if parts.work_ns > MAX_WORK_NS:
        needed = f"decoding takes some {parts.work_ns / 1e9:.1f} s"
        raise TooCostlyError(f"{size}{parts.why}: {needed}, allowed are {MAX_WORK_NS / 1e9:.1f}")
    return parts


class _Counted:
    """Counts what a walk meets, up to a limit."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what, self.count = most, what, 0

    def add(self) -> None:
        self.count += 1
        if self.count > self._most:
            raise TooCostlyError(f"more than {self._most} {self._what}")


def _png_parts(data: bytes) -> Parts:
    view, position = memoryview(data), 8
    kept: list[bytes | memoryview] = [view[:8]]
    others, pixels = _Counted(MAX_PARTS, "chunks"), _Counted(MAX_PIXEL_PARTS, "chunks")
    text = _PngText()
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise UndecodableError("PNG: the chain of chunks is broken or cut off")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise UndecodableError("PNG: the chain of chunks is broken or cut off")
        checked = view[position + 4 : end - 4]
        if zlib.crc32(checked) != int.from_bytes(view[end - 4 : end], "big"):
            raise UndecodableError(f"PNG: wrong checksum of chunk {kind!r}")
        (pixels if kind == b"IDAT" else others).add()
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(view[position:end])
        else:
            text.read(kind, checked[4:])
        position = end
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise UndecodableError("PNG: does not begin with its header")
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    raw = width * height * channels * max(depth, 8) // 8
    return Parts(
        *("PNG", b"".join(kept), width, height, 9 * width * height),
        work_ns=(9 if depth == 16 else 4) * raw + 10 * width * height + 25 * position,
        bits=depth,
        exif=text.exif,
        xmp=text.xmp,
    )


class _PngText:
    """Takes the orientation's sources out of PNG chunks; bombs are refused on the way."""

    def __init__(self) -> None:
        self.exif = self.xmp = b""
        self._inflated = 0

    def read(self, kind: bytes, body: memoryview) -> None:
        if kind == b"eXIf":
            self.exif = bytes(body)
        elif kind in (b"zTXt", b"iCCP"):
            name, _, packed = bytes(body).partition(b"\0")
            self._note(name, self._inflate(packed[1:]))
        elif kind == b"iTXt":
            name, _, rest = bytes(body).partition(b"\0")
            value = rest[2:].split(b"\0", 2)[-1]
            self._note(name, self._inflate(value) if rest[:1] == b"\1" else value)
        elif kind == b"tEXt":
            name, _, value = bytes(body).partition(b"\0")
            self._note(name, value)

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"XML:com.adobe.xmp":
            self.xmp = value
        elif name == b"Raw profile type exif" and not self.exif:
            try:
                self.exif = binascii.unhexlify(b"".join(value.split(b"\n")[3:]))
            except binascii.Error:
                return

    def _inflate(self, packed: bytes) -> bytes:
        try:
            value = zlib.decompressobj().decompress(packed, MAX_INFLATED + 1)
        except zlib.error:
            return b""  # of no use to a pixel
        self._inflated += len(value)
        if len(value) > MAX_INFLATED or self._inflated > MAX_INFLATED_IN_ALL:
            raise TooCostlyError("PNG: a text or colour profile too large to inflate")
        return value


JPEG_BYTES_A_PIXEL, JPEG_NS_A_PIXEL, JPEG_NS_A_BYTE = 8, 15, 20
"""What a baseline picture takes at most."""
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Neither an escaped byte of pixel data, nor a restart, nor a fill byte."""
_PLAIN_MARKERS = frozenset((0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE))
"""Frames, tables, a restart interval, the first scan, and what says how colours are meant."""
_JPEG_MODES: dict[int, Literal["RGB", "L"]] = {1: "L", 3: "RGB"}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def _jpeg_parts(data: bytes) -> Parts:
    kept, markers = [data[:2]], _Counted(MAX_PARTS, "segments")
    position, scans, scan_at, frame = 2, 0, len(data), b""
    exif, xmp, is_plain = list[bytes](), b"", True
    while found := _JPEG_MARKER.search(data, position):
        markers.add()
        marker, position = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : end]
        if end < position + 2 or end > len(data):
            break  # cut off, which the decoder finds
        if marker == 0xDA:
            scans, scan_at = scans + 1, min(scan_at, found.start())
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker > 0xC2 or frame:
                raise UndecodableError("JPEG: neither one baseline nor one progressive picture")
            frame = bytes([marker]) + body
        if marker == 0xE1 and body.startswith(_EXIF):
            exif.append(body[len(_EXIF) :])
        elif marker == 0xE1 and body.startswith(_XMP):
            xmp = body[len(_XMP) :]
        is_kept = marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        if not scans and is_kept:
            kept.append(data[found.start() : end])
            is_plain &= marker in _PLAIN_MARKERS
        position = end
    if len(frame) < 7 or not scans:
        raise UndecodableError("JPEG: no picture, or cut off before its first scan")
    height, width, components = struct.unpack_from(">HHB", frame, 2)
    pixels, size = width * height, len(data)
    buffered = scans > 1 or frame[0] == 0xC2  # then the coefficients of the whole are in memory
    needed = (1 if components == 1 else 4) + (2 * components if buffered else 0)
    work = pixels * JPEG_NS_A_PIXEL + JPEG_NS_A_BYTE * size
    if buffered:
        work = pixels * (20 + scans) + 55 * size
    return Parts(
        *("JPEG", b"".join([*kept, data[scan_at:]]), width, height),
        memory=max(needed, JPEG_BYTES_A_PIXEL) * pixels,
        work_ns=work,
        why=f" in {scans} scans",
        codec_mode=_JPEG_MODES.get(components) if is_plain and frame[1] == 8 else None,
        exif=b"".join(exif),
        xmp=xmp,
    )


def _gif_parts(data: bytes) -> Parts:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (6 << (flags & 7) if flags & 0x80 else 0)
    kept, blocks = [data[:position]], _Counted(MAX_PARTS, "blocks")
    while data[position] != 0x2C:  # the first picture
        if data[position] != 0x21:
            raise UndecodableError("GIF: no picture, or cut off before it")
        start, kind = position, data[position + 1]
        position += 2
        while length := data[position]:
            blocks.add()
            position += 1 + length
        position += 1
        if kind == 0xF9:  # says which colour is transparent
            kept.append(data[start:position])
    left, top, wide, high = struct.unpack_from("<HHHH", data, position + 1)
    width, height = max(width, left + wide), max(height, top + high)
    return Parts(
        *("GIF", b"".join([*kept, data[position:]]), width, height, 9 * width * height),
        work_ns=25 * width * height + 15 * len(data),
    )


def _webp_parts(data: bytes) -> Parts:
    header = read_header(data)
    if header is None:
        raise UndecodableError("WEBP: the header is damaged or cut off")
    found, chunks = {b"EXIF": b"", b"XMP ": b""}, _Counted(MAX_PARTS, "chunks")
    position = 12
    while position + 8 <= len(data):
        chunks.add()
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind in found:
            found[kind] = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    pixels = header.width * header.height
    return Parts(
        *("WEBP", data, header.width, header.height, 19 * pixels),
        work_ns=70 * pixels + 15 * len(data),
        exif=found[b"EXIF"].removeprefix(_EXIF),
        xmp=found[b"XMP "],
    )


MAX_RLE_WIDTH = 8192
"""Of a BMP in run-length coding, which may skip 255 rows in two bytes."""


def _bmp_parts(data: bytes) -> Parts:
    header = read_header(data)
    if header is None:
        raise UndecodableError("BMP: the header is damaged or cut off")
    pixels, per_byte = header.width * header.height, 2
    (size,) = struct.unpack_from("<I", data, 14)
    if size > 12 and struct.unpack_from("<I", data, 30)[0] in (1, 2):
        per_byte = 1200  # Pillow unpacks runs in Python
        if header.width > MAX_RLE_WIDTH:
            raise TooCostlyError(f"BMP in runs of {header.width} pixels, not {MAX_RLE_WIDTH}")
    return Parts(
        *("BMP", data, header.width, header.height, 9 * pixels),
        work_ns=10 * pixels + per_byte * len(data),
    )


_READERS: dict[str, Callable[[bytes], Parts]] = {
    "PNG": _png_parts,
    "JPEG": _jpeg_parts,
    "GIF": _gif_parts,
    "WEBP": _webp_parts,
    "BMP": _bmp_parts,
    "TIFF": tiff_parts,
    "AVIF": avif_parts,
}
