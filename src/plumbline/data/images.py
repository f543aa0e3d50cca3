"""From encoded bytes to pixels: the one decoding that validation, training and a bundle share.

Pixels have 8 bits. By rule: 16 bits lose their low byte, where the file uses their range; 9 to 15
bits are scaled where the file says what is white (TIFF: MaxSampleValue, or samples of so many
bits). All else, such as floats, signed or 32-bit integers, or 16 bits with values in the lower half
alone and no word on what is white, is refused with its mode: every other scale would be a guess.
What is transparent is composited on white. The first frame or page counts, and EXIF's orientation
is applied. Colour profiles are not.
"""

import importlib
import io
import re
import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from .image_parts import MAX_PIXELS, check_image_cost
from .library_lines import counted_lines
from .parts import Parts
from .tiff_entries import ORIENTATION, tiff_entries
from .undecodable import MAX_BYTES, UndecodableError, hostile_bytes

Mode = Literal["RGB", "L"]
"""Of decoded images: three channels, or one."""

WHITE = 255
_PLUGINS = {
    "PNG": "Png",
    "JPEG": "Jpeg",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "GIF": "Gif",
    "AVIF": "Avif",
}
FORMATS = tuple(_PLUGINS)
"""Formats that are read, told by content."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_HALF_OF_16_BITS = 2**15
_LONGEST = 16
"""Times its shorter side an image is long, where it is resized to keep its ratio."""


def decode_image(
    data: bytes, mode: Mode = "RGB", *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Decode to 8 bits by the rules at the top of this module.

    Args:
        data: an encoded image; any bytes.
        mode: RGB, or L for the luma of ITU-R 601.
        max_pixels: the most pixels; at most `MAX_PIXELS`.
        max_bytes: the most bytes of `data`; at most `undecodable.MAX_BYTES`.

    Raises:
        UndecodableError: the bytes are no image that is read.
        TooCostlyError: decoding would take more than the limits allow; nothing was decoded.
    """
    return decode_parts(check_image_cost(data, max_pixels=max_pixels, max_bytes=max_bytes), mode)


def decode_parts(parts: Parts, mode: Mode = "RGB") -> Image.Image:
    """Decode what `check_image_cost` gave; result and errors as `decode_image`."""
    if not parts.width or not parts.height:
        raise UndecodableError(f"{parts.format} of {parts.width} x {parts.height} pixels")
    with hostile_bytes(parts.format):
        image = _decode_directly(parts) or _load(parts)
        turn = _orientation(parts.exif or image.info.get("exif") or b"", parts.xmp)
        image = _flat(image, parts)
        if image.mode != mode:
            image = image.convert(mode)
        return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def read_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image as it is decoded, without decoding it.

    Raises:
        UndecodableError: the container is damaged or of no known format.
        TooCostlyError: it would not be decoded.
    """
    parts = check_image_cost(data)
    exif = parts.exif
    if parts.format == "AVIF":
        with hostile_bytes(parts.format):
            exif = _open(parts).info.get("exif") or b""
    turned = _orientation(exif, parts.xmp) >= 5
    return (parts.width, parts.height) if turned else (parts.height, parts.width)


def resize_image(
    image: Image.Image,
    height: int,
    width: int,
    resample: str = "bicubic",
    *,
    keep_ratio: bool = False,
    crop: float = 1.0,
    longest_edge: int | None = None,
) -> NDArray[np.uint8]:
    """Resize to exactly [height, width, channels], uint8; the identity when the size fits.

    Args:
        image: of mode L or RGB.
        height: of the result, in pixels.
        width: of the result; with `keep_ratio` the same.
        resample: a filter of PIL.
        keep_ratio: the shorter side gets the size, and the middle of the longer one is kept; else
            both are stretched to it.
        crop: the part of each side that is kept, from the middle; the image is resized to that much
            more.
        longest_edge: to which the longer side is brought first, with the same filter; None: in one
            step.
    """
    if longest_edge is not None:
        image = image.resize(
            _with_longest(image.size, longest_edge), Image.Resampling[resample.upper()]
        )
    tall, wide = round(height / crop), round(width / crop)
    if keep_ratio:
        image = _middle(image)
        if image.width <= image.height:
            tall = int(wide * image.height / image.width)
        else:
            wide = int(tall * image.width / image.height)
    if image.size != (wide, tall):
        image = image.resize((wide, tall), Image.Resampling[resample.upper()])
    if image.size != (width, height):
        left, top = (wide - width) // 2, (tall - height) // 2
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _with_longest(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height of the same ratio whose longer one is `longest`; the other one is even.

    Source: `get_resize_output_image_size` of the image processors of Idefics3 in transformers.
    """
    width, height = size
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(1, other + other % 2)
    other = int(longest * ratio)
    return max(1, other + other % 2), longest


def _middle(image: Image.Image) -> Image.Image:
    """All of an image but the ends of a strip, which would take memory and be cut off."""
    longest = _LONGEST * min(image.size)
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _decode_directly(parts: Parts) -> Image.Image | None:
    """The same codec without Pillow's reader of containers, which takes longer than a small image.

    None where the codec cannot be asked, or fails: the reader has a line for that.
    """
    if parts.codec_mode is None:
        return None
    mode, size = parts.codec_mode, (parts.width, parts.height)
    try:
        return Image.frombytes(mode, size, parts.data, parts.format.lower(), mode, "")
    except (ValueError, OSError):
        return None


def _open(parts: Parts) -> Image.Image:
    importlib.import_module(f"PIL.{_PLUGINS[parts.format]}ImagePlugin")
    if parts.format == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    image = Image.open(io.BytesIO(parts.data), formats=(parts.format,))
    if image.size != (parts.width, parts.height):
        raise UndecodableError(f"{parts.format}: the header says {parts.width} x {parts.height}")
    return image


def _load(parts: Parts) -> Image.Image:
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with counted_lines(noisy=parts.format == "TIFF"):
            image = _open(parts)
            image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    return image


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation that EXIF, or else XMP, names; 1, upright, where neither can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        entries = tiff_entries(exif)
        found = next((entry for entry in entries if entry.tag == ORIENTATION), None)
        if found is not None:
            value = next(iter(found.numbers(exif)), 1)
            return value if value in _TURNS else 1
    except (struct.error, IndexError, UndecodableError):
        pass  # what cannot be read turns nothing
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match and int(match[1]) in _TURNS else 1


def _flat(image: Image.Image, parts: Parts) -> Image.Image:
    """Bring pixels to L or RGB of 8 bits, what is transparent composited on white."""
    key = image.info.get("transparency")
    if image.mode in ("I;16", "I;16L", "I;16B"):
        return _from_16_bits(image, parts, key)
    if parts.bits > 8:
        _check_range(max(high for _, high in _colours(image)) << 8, parts)
        if key is not None:
            raise UndecodableError(f"{image.mode} of 16 bits with a transparent colour is not read")
    if image.mode == "L" and isinstance(key, int) and parts.bits < 8:
        image.info["transparency"] = key * 255 // (2**parts.bits - 1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or key is not None:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", image.size, (WHITE,) * 3)
        ground.paste(image, mask=image)
        return ground
    if image.mode in ("I", "F"):
        raise UndecodableError(f"mode {image.mode}: no rule brings it to 8 bits")
    return (
        image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    )


def _colours(image: Image.Image) -> list[tuple[int, int]]:
    """Least and greatest value of each band but alpha."""
    bands = image.getextrema()
    pairs = [pair for pair in bands if isinstance(pair, tuple)]
    if not pairs:  # of a single band it is the pair itself
        low, high = (bound for bound in bands if not isinstance(bound, tuple))
        pairs = [(int(low), int(high))]
    return pairs[:-1] if image.mode in ("RGBA", "LA") else pairs


def _check_range(highest: int, parts: Parts) -> None:
    if parts.max_value not in (0, 2**16 - 1):
        return
    if 0 < highest < _HALF_OF_16_BITS and not parts.max_value:
        raise UndecodableError(
            f"16 bits of which {highest.bit_length()} are used: what is white? scale the values to "
            "0..65535, or set MaxSampleValue in a TIFF"
        )


def _from_16_bits(image: Image.Image, parts: Parts, key: object) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    highest = int(values.max())
    _check_range(highest, parts)
    white = parts.max_value or 2**16 - 1
    if highest > white:
        raise UndecodableError(f"mode {image.mode}: a value of {highest}, white is {white}")
    if white == 2**16 - 1:
        levels = (values >> 8).astype(np.uint8)
    else:
        scale = (np.arange(white + 1) * 510 + white) // (2 * white)  # rounded to the nearest
        levels = scale.astype(np.uint8)[values]
    if isinstance(key, int):
        levels[values == key] = WHITE
    return Image.fromarray(levels)
