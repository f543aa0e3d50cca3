"""The distinct media of the batch that is looked at: found, named and measured once for all."""

import hashlib
import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.clean_media import decoding
from plumbline.data.columns import MEDIA
from plumbline.data.image_lists import clean_images

if TYPE_CHECKING:
    from plumbline.data.audio import AudioHeader


class Medium(NamedTuple):
    """An encoded file."""

    key: bytes
    """What tells it from every other one: its kind and its digest."""
    data: bytes


class Cells(NamedTuple):
    """A column of media."""

    numbers: NDArray[np.int64]
    """[rows]: of each row's cell, -1 where it is empty."""
    media: list[list[Medium]]
    """By number: one, or those that the turns of a row show."""


class ImageLook(NamedTuple):
    """What an image says of itself."""

    height: int
    """Pixels, after EXIF orientation."""
    width: int
    mode: str
    """Format and mode in Pillow's words, such as `PNG RGBA`."""


class BatchMedia:
    """Holds what was found of one batch until it is released."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._columns: dict[str, Cells] = {}
        self._images: dict[bytes, ImageLook] = {}
        self._clips: dict[bytes, AudioHeader] = {}

    def release(self) -> None:
        """Hold nothing any more: another batch follows."""
        self._columns, self._images, self._clips = {}, {}, {}

    def cells(self, column: str, batch: pa.RecordBatch) -> Cells:
        """The cells of a column of the batch, distinct ones in the order of their rows."""
        if column not in self._columns:
            self._columns[column] = _find(column, batch)
        return self._columns[column]

    def image(self, medium: Medium) -> ImageLook:
        """Size and mode of an image; nothing is decoded.

        Raises:
            DataError: it cannot be read, though validation let it pass.
        """
        if medium.key not in self._images:
            with decoding("image", medium.data):
                self._images[medium.key] = _look_at_image(medium.data)
        return self._images[medium.key]

    def clip(self, medium: Medium) -> "AudioHeader":
        """Rate, channels and length of a clip; nothing is decoded.

        Raises:
            DataError: it cannot be read, though validation let it pass.
        """
        from plumbline.data.audio import read_audio_header  # only clips need libsndfile

        if medium.key not in self._clips:
            with decoding("clip", medium.data):
                self._clips[medium.key] = read_audio_header(medium.data)
        return self._clips[medium.key]


def _find(column: str, batch: pa.RecordBatch) -> Cells:
    encoded = batch.column(column).dictionary_encode()
    kind = bytes([MEDIA.index("image" if column == "images" else column)])
    media = [
        [
            Medium(kind + hashlib.sha256(data).digest(), data)
            for data in (clean_images(cell) if column == "images" else (cell,))
        ]
        for cell in encoded.dictionary.to_pylist()
    ]
    return Cells(encoded.indices.fill_null(-1).to_numpy().astype(np.int64), media)


def _look_at_image(data: bytes) -> ImageLook:
    from PIL import Image  # only images need it

    from plumbline.data.image_parts import check_image_cost
    from plumbline.data.images import read_size

    height, width = read_size(data)
    # What the decoder is given: without the other chunks, over which Pillow may stumble.
    parts = check_image_cost(data)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(parts.data)) as image:
            mode = f"{parts.format} {image.mode}"
    except (OSError, ValueError, SyntaxError):  # of what a header alone does not show
        mode = parts.format
    return ImageLook(height, width, mode)
