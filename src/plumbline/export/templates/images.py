"""From encoded image bytes to pixel values, exactly as in training and evaluation."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .files import Floats, InputError, TooLargeError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


class Preprocessor:
    """Decodes, resizes and normalises images as a contract says."""

    def __init__(self, contract: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        """Take size and statistics from the image's section of the contract."""
        self._size = (int(contract["width"]), int(contract["height"]))
        self._filter = Image.Resampling[contract["resize"].upper()]
        self._max_bytes, self._max_pixels = limits["max_bytes"], limits["max_image_pixels"]
        # (x / 255 - mean) / std as one multiply-add of float32 values, rounded once: what a fused
        # instruction gives. float64 holds the unrounded result exactly.
        mean, std = np.array(contract["mean"]), np.array(contract["std"])
        scale, shift = (v.astype(np.float32).astype(float) for v in (1 / (255 * std), -mean / std))
        exact = np.outer(scale, np.arange(256)) + shift[:, None]
        self._levels: Floats = exact.astype(np.float32)

    def decode(self, data: bytes) -> Image.Image:
        """Decode to 8-bit RGB: first frame, EXIF orientation applied, alpha dropped.

        Raises:
            TooLargeError: more bytes or pixels than the limits allow.
            InputError: the bytes are no image.
        """
        if len(data) > self._max_bytes:
            raise TooLargeError(f"image of {len(data)} bytes, allowed are {self._max_bytes}")
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            if image.width * image.height > self._max_pixels:
                size = f"{image.width} x {image.height}"
                raise TooLargeError(f"image of {size} pixels, allowed are {self._max_pixels}")
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit gray at 255 instead of scaling it.
                high = np.asarray(image).astype(np.uint32) >> 8
                image = Image.fromarray(high.astype(np.uint8))
            return image.convert("RGB")
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise TooLargeError(f"image: {error}") from None
        except Exception as error:  # decoders raise whatever damaged bytes lead them to
            raise InputError(f"image: cannot be decoded ({type(error).__name__})") from None

    def pixel_values(self, data: bytes) -> Floats:
        """Decode, resize and normalise to [3, height, width], float32.

        Raises:
            InputError: as in `decode`.
        """
        image = self.decode(data)
        if image.size != self._size:
            image = image.resize(self._size, self._filter)
        pixels = np.asarray(image, dtype=np.uint8)
        return np.stack([self._levels[c][pixels[..., c]] for c in range(3)])
