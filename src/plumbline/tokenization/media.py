"""The decoded-media files of a training cache: one writer per kind of medium."""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.arrays import decode_features
from plumbline.data.clean_media import decoding
from plumbline.data.disk_index import DiskIndex
from plumbline.data.image_lists import clean_images
from plumbline.data.images import Mode, decode_image, resize_image
from plumbline.data.resizing import Resize
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import DataError
from plumbline.tokenization.computing import Chunk
from plumbline.tokenization.facts import AudioFacts, FeatureFacts, MediaFacts
from plumbline.tokenization.settings import ImageMode
from plumbline.tokenization.stores import Decoded, Store, Stores

if TYPE_CHECKING:
    from plumbline.shapes.described import FeatureShape, Shapes

_MODES: dict[ImageMode, Mode] = {"rgb": "RGB", "gray": "L"}

CHANNELS: dict[ImageMode, int] = {"rgb": 3, "gray": 1}
"""Setting `tokenize.image_mode` -> channels of the cached images."""


class MediaFile(Protocol):
    """Receives the distinct media of one column, in the order of their numbers."""

    @property
    def decode(self) -> Callable[[bytes], Decoded]:
        """What a model is given of a medium, which depends on nothing but its bytes.

        It can be pickled, and raises a DataError where a medium cannot be decoded, though
        validation let it pass.
        """

    def decoded_bytes(self, data: bytes) -> int:
        """Bytes that a medium is decoded to, or a few more; it is not decoded.

        Raises:
            DataError: it cannot be, though validation let it pass.
        """
        ...

    def write(self, data: bytes, decoded: Decoded) -> bool:
        """Write the next one; whether it says nothing, which only decoding shows."""
        ...

    def facts(self) -> MediaFacts:
        """What a reader must know, for cache.json."""
        ...


class NumberedMedia:
    """The media of a column, of which each distinct one is written once."""

    def __init__(self, index: DiskIndex, file: MediaFile) -> None:
        """Number by `index`, and write to `file`."""
        self._index, self._file = index, file
        self._met: list[tuple[int, bytes]] = []
        self.decode, self.facts = file.decode, file.facts
        self.decoded_bytes = file.decoded_bytes

    def number(self, column: pa.Array) -> pa.Array:
        """The numbers of the media of a batch: int32 [rows]."""
        cells = enumerate(column.to_pylist())
        return pa.array([c if c is None else self._number(c, at) for at, c in cells], pa.int32())

    def number_lists(self, column: pa.Array) -> pa.Array:
        """The numbers of the images that turns show: a list of them a row."""
        cells = [cell and clean_images(cell) for cell in column.to_pylist()]
        numbers = [
            images and [self._number(image, row) for image in images]
            for row, images in enumerate(cells)
        ]
        return pa.array(numbers, pa.list_(pa.int32()))

    def take_met(self) -> list[tuple[int, bytes]]:
        """The media of the last batch that no row before has, each with its row; to be written."""
        met, self._met = self._met, []
        return met

    def write(self, chunk: Chunk, decoded: Sequence[Decoded]) -> list[int]:
        """Write the next media; the rows of those that say nothing, each as often as it has one."""
        media = zip(chunk.rows, chunk.media, decoded, strict=True)
        return [row for row, data, array in media if self._file.write(data, array)]

    def _number(self, data: bytes, row: int) -> int:
        number, new = self._index.number(hashlib.sha256(data).digest())
        if new:
            self._met.append((row, data))
        return number


class ImageFile:
    """Images, as they are stored."""

    def __init__(
        self, store: Store, size: tuple[int, int], mode: ImageMode, resize: Resize | None = None
    ) -> None:
        """Write images of `size`, height and width in pixels, into `store`."""
        self._store, self._size, self._mode, self._count = store, size, mode, 0
        self._resize = resize
        self.decode = partial(decode_pixels, size, _MODES[mode], resize or Resize())
        self._darkest, self._brightest = 255, 0

    def decoded_bytes(self, data: bytes) -> int:
        """See `MediaFile`: all have one size."""
        return math.prod(self._size) * CHANNELS[self._mode]

    def write(self, data: bytes, decoded: Decoded) -> bool:
        """See `MediaFile`: whether the pixels have one colour."""
        self._store.add(data, decoded)
        self._count += 1
        self._darkest = min(self._darkest, int(decoded.min()))
        self._brightest = max(self._brightest, int(decoded.max()))
        # Two corners tell most images apart from one colour.
        first = decoded[0, 0]
        return bool((first == decoded[-1, -1]).all() and (decoded == first).all())

    def facts(self) -> MediaFacts:
        """See `MediaFile`."""
        shape = [*self._size, CHANNELS[self._mode]]
        levels = [self._darkest, self._brightest]
        facts: MediaFacts = {
            "images": self._count,
            "image_shape": shape,
            "image_levels": levels,
        }
        if self._resize is not None:
            made = self._resize
            facts["image_resize"] = {
                "resample": made.resample,
                "keep_ratio": made.keep_ratio,
                "crop": made.crop,
            }
            if made.longest_edge is not None:
                facts["image_resize"]["longest_edge"] = made.longest_edge
        if shards := self._store.facts():
            facts["image_shards"] = shards
        else:
            facts["image_layout"] = "planes"
        return facts


_SAMPLE_BYTES = 4
"""Of a float32."""
QUIET = 1e-4
"""Of full scale, some three steps of 16 bits: what changes by less is silence."""
MOST_LEVEL = 2.0
"""Samples lie in -1..1, and what decoding and resampling add is less than as much again."""


class _RaggedFile:
    """Arrays of unequal length, and where each would begin, were they laid end to end."""

    def __init__(self, store: Store, offsets: BinaryIO) -> None:
        self._store, self._offsets = store, offsets
        self._offsets.write(np.int64(0).tobytes())
        self._end = self._count = self._longest = 0

    def _write(self, data: bytes, array: Decoded) -> None:
        self._store.add(data, array)
        self._end += len(array)
        self._offsets.write(np.int64(self._end).tobytes())
        self._count += 1
        self._longest = max(self._longest, len(array))


class AudioFile(_RaggedFile):
    """Clips, as they are stored, and their offsets in samples."""

    def __init__(self, store: Store, offsets: BinaryIO, sample_rate: int) -> None:
        """Write clips at `sample_rate` Hz."""
        super().__init__(store, offsets)
        self._sample_rate, self._beyond_range = sample_rate, 0
        self.decode = partial(decode_clip, sample_rate)

    def decoded_bytes(self, data: bytes) -> int:
        """See `MediaFile`: as long as the header says."""
        from plumbline.data.audio import read_audio_header  # as in `decode_clip`

        with decoding("clip", data):
            return int(read_audio_header(data).seconds * self._sample_rate + 1) * _SAMPLE_BYTES

    def write(self, data: bytes, decoded: Decoded) -> bool:
        """See `MediaFile`: whether the clip is silent."""
        self._beyond_range += float(np.abs(decoded).max()) > MOST_LEVEL
        self._write(data, decoded)
        return float(np.ptp(decoded)) < QUIET

    def facts(self) -> MediaFacts:
        """See `MediaFile`."""
        audio: AudioFacts = {
            "clips": self._count,
            "sample_rate": self._sample_rate,
            "longest_samples": self._longest,
            "beyond_range": self._beyond_range,
        }
        if shards := self._store.facts():
            audio["shards"] = shards
        return {"audio": audio}


class FeatureFile(_RaggedFile):
    """features.bin and its offsets."""

    def __init__(self, store: Store, offsets: BinaryIO, shape: "FeatureShape") -> None:
        """Write arrays of `shape["channels"]` channels; `shape` is that of shapes.json."""
        super().__init__(store, offsets)
        self._shape = shape
        self.decode = partial(decode_steps, shape["channels"])

    def decoded_bytes(self, data: bytes) -> int:
        """See `MediaFile`: a number takes one byte at least where it is stored."""
        return len(data) * _SAMPLE_BYTES

    def write(self, data: bytes, decoded: Decoded) -> bool:
        """See `MediaFile`; of features `detect_shapes` has told."""
        self._write(data, decoded)
        return False

    def facts(self) -> MediaFacts:
        """See `MediaFile`."""
        features: FeatureFacts = {
            "arrays": self._count,
            "longest": self._longest,
            "channels": self._shape["channels"],
            "mean_of_channels": self._shape["mean_of_channels"],
            "std_of_channels": self._shape["std_of_channels"],
        }
        return {"features": features}


def decode_pixels(
    size: tuple[int, int], mode: Mode, resize: Resize, data: bytes
) -> NDArray[np.uint8]:
    """Decode an image to pixels [height, width, channels] of a size."""
    with decoding("image", data):
        return resize_image(decode_image(data, mode), *size, **resize.model_dump())


def decode_clip(sample_rate: int, data: bytes) -> NDArray[np.float32]:
    """Decode a clip to samples [samples] at a rate."""
    from plumbline.data.audio import decode_mono  # data without audio needs no libsndfile

    with decoding("clip", data):
        return decode_mono(data, sample_rate)


def decode_steps(channels: int, data: bytes) -> NDArray[np.float32]:
    """Decode a feature array to [steps, channels]."""
    with decoding("feature array", data):
        array = decode_features(data)
        if array.shape[1] != channels:
            raise UndecodableError(f"{array.shape[1]} channels")
    return array


def open_media(
    stores: Stores,
    image_size: list[int] | None,
    image_resize: Resize | None,
    image_mode: ImageMode,
    sample_rate: int,
    shapes: "Shapes",
) -> dict[str, MediaFile]:
    """Open the files of the media that a dataset has, by column.

    Raises:
        DataError: images differ in size and no size is set.
    """
    media: dict[str, MediaFile] = {}
    if size := _image_size(image_size, shapes):
        store = stores.of_images((*size, CHANNELS[image_mode]), shapes["image"]["sizes"])
        media["image"] = ImageFile(store, size, image_mode, image_resize)
    if "audio" in shapes:
        store = stores.of_clips(shapes["audio"], sample_rate)
        media["audio"] = AudioFile(store, stores.create("audio.offsets.bin"), sample_rate)
    if "features" in shapes:
        offsets = stores.create("features.offsets.bin")
        store = stores.decoded("features")
        media["features"] = FeatureFile(store, offsets, shapes["features"])
    return media


def _image_size(wanted: list[int] | None, shapes: "Shapes") -> tuple[int, int] | None:
    sizes = shapes["image"]["sizes"] if "image" in shapes else []
    if not sizes:
        return None
    if wanted is not None:
        return wanted[0], wanted[1]
    if len(sizes) > 1:
        shown = ", ".join(f"{s['height']}x{s['width']} ({s['images']})" for s in sizes[:3])
        raise DataError(
            f"images have {len(sizes)} different sizes, the most frequent {shown}; "
            "set tokenize.image_size of the dataset to one height and width"
        )
    return sizes[0]["height"], sizes[0]["width"]
