"""From encoded bytes to pixels: the one decoding that training, evaluation and export share."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def decode_rgb(data: bytes) -> Image.Image:
    """Decode to 8-bit RGB: first frame, EXIF orientation applied, alpha dropped, 16 bits scaled.

    Raises:
        OSError: the bytes are no image that Pillow can decode.
    """
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit gray at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize_rgb(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize to exactly [height, width, 3], uint8; the identity when the size fits already."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)
