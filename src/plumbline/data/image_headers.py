"""Format and size of an image from its first bytes, without a decoder and without trust in it."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from .boxes import AVIF_PROPERTIES, iter_boxes
from .tiff_entries import HEIGHT, WIDTH, tiff_entries
from .undecodable import UndecodableError

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


class ImageHeader(NamedTuple):
    """What an image says of itself."""

    format: str
    width: int
    """Pixels, before any rotation that EXIF asks for."""
    height: int
    """Pixels, before any rotation that EXIF asks for."""


def sniff_format(data: bytes) -> str | None:
    """Name the format that the first bytes announce, in Pillow's words; None for any other."""
    if data.startswith(_PNG_MAGIC):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(_TIFF_MAGICS):
        return "TIFF"
    if data[4:12] in (b"ftypavif", b"ftypmif1"):
        return "AVIF"
    return "BMP" if data.startswith(b"BM") else None


def read_header(data: bytes) -> ImageHeader | None:
    """Read format and size; None where the bytes are no image of a known format or are cut off."""
    name = sniff_format(data)
    if name is None:
        return None
    try:
        size = _SIZE_READERS[name](data)
    except (struct.error, IndexError, OverflowError, UndecodableError):  # an offset beyond the end
        return None
    return None if size is None else ImageHeader(name, *size)


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif_size(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height means that rows go from top to bottom


def _webp_size(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return (width, height) if len(data) >= 30 else None
    if chunk == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while True:
        if data[position] != 0xFF:
            return None
        while data[position] == 0xFF:  # any number of fill bytes may stand before a marker
            position += 1
        marker = data[position]
        position += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no content
            continue
        if marker in (0xD9, 0xDA):  # the end, or pixel data without a frame before it
            return None
        (length,) = struct.unpack_from(">H", data, position)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
        if length < 2:
            return None
        position += length


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    sizes: dict[int, int] = {}
    for entry in tiff_entries(data):
        if entry.tag in (WIDTH, HEIGHT) and (values := entry.numbers(data)):
            sizes[entry.tag] = values[0]
    return (sizes[WIDTH], sizes[HEIGHT]) if len(sizes) == 2 else None


def _avif_size(data: bytes) -> tuple[int, int] | None:
    """The largest size that the file names: its tiles, planes and previews are smaller."""
    sizes = [
        struct.unpack_from(">II", data, start + 4)
        for kind, start, end in iter_boxes(data, 0, len(data), into=AVIF_PROPERTIES)
        if kind == b"ispe" and end - start >= 12
    ]
    return max(sizes, key=lambda size: size[0] * size[1]) if sizes else None


_SIZE_READERS: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "PNG": _png_size,
    "JPEG": _jpeg_size,
    "GIF": _gif_size,
    "WEBP": _webp_size,
    "TIFF": _tiff_size,
    "BMP": _bmp_size,
    "AVIF": _avif_size,
}
