"""Images and clips of a training cache, whichever way they lie in it; no torch here."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from plumbline.data.media_shards import ShardReader
from plumbline.data.resizing import Resize
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import CheckpointError, DamagedInputError
from plumbline.loading.memory_cache import MemoryCache

if TYPE_CHECKING:
    # Only there, so that a field more of cache.json reruns no training of what does not read it.
    from plumbline.tokenization.facts import CacheFacts, ShardFacts

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]


class Images(Protocol):
    """Images by number, as an array of them is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[images, height, width, channels]."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    @overload
    def __getitem__(self, wanted: int) -> Pixels: ...

    @overload
    def __getitem__(self, wanted: slice | Sequence[int] | NDArray[np.integer]) -> Pixels: ...

    def __getitem__(self, wanted: int | slice | Sequence[int] | NDArray[np.integer]) -> Pixels:
        """An image [height, width, channels], or several [images, height, width, channels]."""
        ...


class EncodedImages:
    """Images that are decoded each time they are read, to the pixels that a cache would hold."""

    def __init__(self, folder: Path, facts: "CacheFacts") -> None:
        """Open the shards of a cache.

        Raises:
            CheckpointError: a file is missing.
        """
        self.shards = _open_shards(folder, "images", facts["image_shards"])
        """Where they lie."""
        self.shape: tuple[int, ...] = (facts["images"], *facts["image_shape"])
        # Those that were reduced already are not cut once more.
        made = facts.get("image_resize") if facts["image_shards"]["form"] == "source" else None
        self._options = Resize.model_validate(made or {}).model_dump()
        self._folder, self._memory = folder, MemoryCache(0)

    def __len__(self) -> int:
        """Number of images."""
        return self.shape[0]

    def keeping(self, memory: MemoryCache) -> "EncodedImages":
        """The same images, of which decoded ones are kept in `memory`."""
        other = copy.copy(self)
        other._memory = memory
        return other

    @overload
    def __getitem__(self, wanted: int) -> Pixels: ...

    @overload
    def __getitem__(self, wanted: slice | Sequence[int] | NDArray[np.integer]) -> Pixels: ...

    def __getitem__(self, wanted: int | slice | Sequence[int] | NDArray[np.integer]) -> Pixels:
        """See `Images`."""
        if isinstance(wanted, int | np.integer):
            return self._image(int(wanted))
        if isinstance(wanted, slice):
            wanted = np.arange(*wanted.indices(len(self)))
        numbers = np.asarray(wanted, np.int64)
        # [images, height, width, channels]
        pixels = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for at, number in enumerate(numbers.tolist()):
            pixels[at] = self._image(number)
        return pixels

    def _image(self, number: int) -> Pixels:
        if not 0 <= number < len(self):
            raise IndexError(f"image {number} of {len(self)}")
        return self._memory.get(number, lambda: self._decode(number))  # type: ignore[return-value]

    def _decode(self, number: int) -> Pixels:
        from plumbline.data.images import decode_image, resize_image  # decoded ones need no PIL

        height, width, channels = self.shape[1:]
        try:
            image = decode_image(self.shards.read(number), "L" if channels == 1 else "RGB")
        except UndecodableError as error:
            raise _damaged(self._folder, "image", number, error) from None
        return resize_image(image, height, width, **self._options)


def open_images(folder: Path, facts: "CacheFacts") -> Images | None:
    """The images of a cache; None: it has none.

    Raises:
        CheckpointError: a file is missing, cut short or of an older version.
    """
    if not facts.get("image_shape") or not facts["images"]:
        return None
    if "image_shards" in facts:
        return EncodedImages(folder, facts)
    path, (height, width, channels) = folder / "images.bin", facts["image_shape"]
    if facts.get("image_layout") != "planes":
        raise CheckpointError(
            f"{path}: of an older version, which did not write images plane by plane; run "
            f"dvc repro -f tokenize_text@{folder.name}"
        )
    shape = (facts["images"], channels, height, width)
    if not path.is_file() or path.stat().st_size < np.prod(shape, dtype=np.int64):
        raise CheckpointError(f"{path}: missing or cut short; run dvc repro")
    planes = np.memmap(path, np.uint8, "r", shape=shape)
    # One plane is the same bytes either way. Its strides say pixel by pixel: layers choose by them.
    one = channels == 1
    images = planes.reshape(-1, height, width, 1) if one else planes.transpose(0, 2, 3, 1)
    # A plain array over the map: what is asked of a map becomes another map, which takes longer.
    return np.asarray(images)


class Clips:
    """The clips of a cache: float32 [samples] each."""

    def __init__(self, folder: Path, facts: "CacheFacts") -> None:
        """Open the clips of a cache that has some.

        Raises:
            CheckpointError: a file is missing.
        """
        self._folder, self._rate = folder, facts["audio"]["sample_rate"]
        samples = folder / "audio.bin"
        self._samples: Samples = np.zeros(0, np.float32)
        self.shards: ShardReader | None = None
        """Where they lie; None: they are decoded."""
        try:
            self.offsets = np.fromfile(folder / "audio.offsets.bin", np.int64)
            if shards := facts["audio"].get("shards"):
                self.shards = _open_shards(folder, "audio", shards)
            else:
                self._samples = np.asarray(np.memmap(samples, np.float32, "r"))
        except (OSError, ValueError):  # an empty file has no map
            raise CheckpointError(f"{samples}: missing or cut short; run dvc repro") from None

    def __getitem__(self, number: int) -> Samples:
        """The samples of a clip.

        Raises:
            CheckpointError: the cache has fewer samples than it says.
            DamagedInputError: a clip is not as it was written.
        """
        begin, end = self.offsets[number : number + 2].tolist()
        if self.shards is not None:
            return self._decode(self.shards.read(number), number)
        clip = self._samples[begin:end]
        if len(clip) < end - begin:
            path = self._folder / "audio.bin"
            raise CheckpointError(f"{path}: missing or cut short; run dvc repro")
        return clip

    def _decode(self, data: bytes, number: int) -> Samples:
        from plumbline.data.audio import decode_mono  # decoded ones need no libsndfile

        try:
            return decode_mono(data, self._rate)
        except UndecodableError as error:
            raise _damaged(self._folder, "clip", number, error) from None


def _open_shards(folder: Path, column: str, facts: "ShardFacts") -> ShardReader:
    """The shards of a cache, which lie in its folder or in an object store."""
    if "store" not in facts:
        return ShardReader(folder, column, facts["starts"])
    from plumbline.objects.shards import ShardStore  # with what speaks to object stores

    store, digests = ShardStore(facts["store"]), facts["digests"]
    return ShardReader(folder, column, facts["starts"], lambda shard: store.bring(digests[shard]))


def _damaged(folder: Path, what: str, number: int, error: Exception) -> DamagedInputError:
    return DamagedInputError(
        f"{folder}: {what} {number} cannot be decoded any more ({error}); its files have changed "
        "or the decoders have; run dvc repro -f tokenize_text@DATASET"
    )
