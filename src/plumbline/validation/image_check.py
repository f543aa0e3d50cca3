"""Is an image cell usable? Limits are checked on the header, before any pixel is decoded."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from plumbline.validation.faults import Fault, Level, one_line
from plumbline.validation.image_header import read_header, sniff_format

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

# Decoders meet hostile bytes here and fail in whatever way they like; a fault of ours, such as a
# wrong name, is not in this list. Pillow's bomb error and warning derive from Exception alone and
# are added where Pillow is imported.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class ImageLimits(NamedTuple):
    """How closely to look at images, and what is still an image to train on."""

    level: Level
    min_side_px: int
    max_pixels: int
    max_bytes: int


def check_image(data: bytes, limits: ImageLimits) -> Fault | None:
    """Judge one image by its bytes alone; None where it is usable.

    Levels: `cheap` looks at the length and the first bytes, `header` also at the size that the
    header gives and, for PNG, at the chain of chunks, `full` also checks Pillow's checksums and
    decodes the first frame. Formats are told by content: PNG, JPEG, WEBP, BMP, TIFF and GIF.
    """
    if not data:
        return Fault("null_image", "zero bytes")
    if len(data) > limits.max_bytes:
        return too_many_bytes(len(data), limits)
    name = sniff_format(data)
    if name is None:
        return Fault("bad_image", f"no known image format; first bytes {data[:8].hex()}")
    if limits.level == "cheap":
        return None
    return _check_header(data, limits) or (
        _decode(data, name, limits) if limits.level == "full" else None
    )


def too_many_bytes(size: int, limits: ImageLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("image_too_large", f"{size} bytes, allowed are {limits.max_bytes}")


def _check_header(data: bytes, limits: ImageLimits) -> Fault | None:
    header = read_header(data)
    if header is None:
        return Fault("bad_image", "the header is damaged or cut off")
    size = f"{header.format} of {header.width} x {header.height} pixels"
    if header.width * header.height > limits.max_pixels:
        return Fault("image_too_large", f"{size}, allowed are {limits.max_pixels} pixels")
    if min(header.width, header.height) < limits.min_side_px:
        return Fault("image_too_small", f"{size}, the smallest side is {limits.min_side_px}")
    if header.format == "PNG" and not _reaches_png_end(data):
        return Fault("bad_image", "PNG: the chain of chunks is broken or cut off")
    return None


def _reaches_png_end(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IEND":
            return data[position : position + 12] == _PNG_END  # no decoder looks at its checksum
        position += 12 + length
    return False


def _decode(data: bytes, name: str, limits: ImageLimits) -> Fault | None:
    # Only this level pays for Pillow's import; naming the plugins spares loading all of them.
    from PIL import (
        BmpImagePlugin,  # noqa: F401
        GifImagePlugin,  # noqa: F401
        Image,
        JpegImagePlugin,  # noqa: F401
        PngImagePlugin,  # noqa: F401
        TiffImagePlugin,  # noqa: F401
        WebPImagePlugin,  # noqa: F401
    )

    try:
        with _strict_pillow(limits.max_pixels):
            with Image.open(io.BytesIO(data), formats=(name,)) as image:
                image.verify()  # PNG checksums, which load() does not look at
            with Image.open(io.BytesIO(data), formats=(name,)) as image:
                image.load()  # truncated pixel data, which verify() does not look at
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Fault("image_too_large", one_line(error))
    except _DECODER_ERRORS as error:
        # Pillow refuses to inflate a text chunk or colour profile beyond its own limit.
        if isinstance(error, MemoryError) or "too large" in str(error).lower():
            return Fault("image_too_large", f"{name}: {one_line(error)}")
        return Fault("bad_image", f"{name}: {one_line(error)}")
    return None


@contextmanager
def _strict_pillow(max_pixels: int) -> Iterator[None]:
    """Make Pillow raise where it would only warn of a bomb, and be silent on the rest."""
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before
