"""Pictures of the page: images of a token cache as data URIs, so that the page needs no file."""

import base64
import io
from functools import cache
from pathlib import Path

import numpy as np

from plumbline.files import read_json
from plumbline.loading.media_reader import open_images
from plumbline.tokenization.facts import CacheFacts


class Pictures:
    """The images of one dataset, memory-mapped; only those that are shown are read."""

    def __init__(self, folder: Path, side: int) -> None:
        """Open the images of a cache.

        Args:
            folder: of the cache.
            side: pixels of the longer side; larger images are reduced to it.

        Raises:
            CheckpointError: the cache is missing, or its images are shorter than it says.
        """
        facts: CacheFacts = read_json(folder / "cache.json")
        self._pixels, self._side = open_images(folder, facts), side
        self.uri = cache(self._encode)

    def _encode(self, number: int) -> str | None:
        """The PNG of image `number` as a data URI; None where the dataset has no images."""
        if self._pixels is None or not 0 <= number < len(self._pixels):
            return None
        from PIL import Image

        pixels = np.asarray(self._pixels[number])
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        if max(image.size) > self._side:
            image.thumbnail((self._side, self._side))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    @property
    def pixelated(self) -> bool:
        """Whether the images are so small that enlarging them should keep their pixels."""
        return self._pixels is not None and max(self._pixels.shape[1:3]) < 100
