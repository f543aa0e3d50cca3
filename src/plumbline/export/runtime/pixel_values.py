"""From encoded image bytes to pixel values, exactly as in training and evaluation."""

import numpy as np
from PIL import Image

from plumbline.data.images import Mode, decode_image, resize_image

from .contract import Limits
from .files import Floats
from .inputs import ImageSection, ResizeSection
from .refusals import refused


class Preprocessor:
    """Decodes, resizes and normalises images as a contract says."""

    def __init__(self, contract: ImageSection, limits: Limits) -> None:
        """Take size and statistics from the image's section of the contract."""
        self._size = (contract["height"], contract["width"])
        resize = contract["resize"]
        self._resize: ResizeSection = (
            {"resample": resize, "keep_ratio": False, "crop": 1.0, "longest_edge": None}
            if isinstance(resize, str)
            else resize
        )
        self._mode: Mode = "L" if len(contract["mean"]) == 1 else "RGB"
        self._max_bytes, self._max_pixels = limits["max_bytes"], limits["max_image_pixels"]
        # (x / 255 - mean) / std as one multiply-add of float32 values, rounded once: what a fused
        # instruction gives. float64 holds the unrounded result exactly.
        mean, std = np.array(contract["mean"]), np.array(contract["std"])
        scale, shift = (v.astype(np.float32).astype(float) for v in (1 / (255 * std), -mean / std))
        exact = np.outer(scale, np.arange(256)) + shift[:, None]
        self._levels: Floats = exact.astype(np.float32)

    def decode(self, data: bytes, name: str = "image") -> Image.Image:
        """Decode to 8 bits by the rules of training.

        Args:
            data: of a file.
            name: what an error calls it.

        Raises:
            TooLargeError: decoding would take more than the limits allow.
            InputError: the bytes are no image that is read.
        """
        with refused(name):
            return decode_image(
                data, self._mode, max_pixels=self._max_pixels, max_bytes=self._max_bytes
            )

    def pixel_values(self, data: bytes, name: str = "image") -> Floats:
        """Decode, resize and normalise to [channels, height, width], float32.

        Args:
            data: as in `decode`.
            name: as in `decode`.

        Raises:
            InputError: as in `decode`.
        """
        pixels = resize_image(self.decode(data, name), *self._size, **self._resize)
        # Each of 256 values is looked up: nothing is computed, nor rounded, per pixel.
        return np.stack([levels[pixels[..., c]] for c, levels in enumerate(self._levels)])
