"""Pixels as PNG: without loss and without metadata, the same bytes each time."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode_png(pixels: NDArray[np.uint8], level: int = 6) -> bytes:
    """Encode [height, width, 3] or [height, width, 1] uint8; `level` of zlib, 0 to 9."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image of pixels [height, width, 3] or [height, width, 1] uint8."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
