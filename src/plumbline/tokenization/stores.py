"""How media lie in a training cache: decoded, or in shards, encoded, where they are too many."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.data.media_shards import ShardWriter
from plumbline.data.png import encode_png
from plumbline.objects.shards import ShardStore
from plumbline.tokenization.facts import ShardFacts

if TYPE_CHECKING:
    from plumbline.shapes.described import AudioShape, SizeCount

Decoded = NDArray[np.uint8] | NDArray[np.float32]
"""Pixels [height, width, channels], samples [samples], or features [steps, channels]."""

_FAST = 1
"""Level of zlib: the best one saves some hundredths, and takes ten times as long."""
_MUCH_LARGER = 4
"""Times the pixels of a cached image from which on the image itself is not worth its decoding."""


class Store(Protocol):
    """Keeps media, in the order of their numbers."""

    def add(self, data: bytes, decoded: Decoded) -> None:
        """Keep the next one, of which both its bytes and what they decode to are at hand."""
        ...

    def facts(self) -> ShardFacts | None:
        """Finish, and tell where encoded media lie; None: they are decoded."""
        ...


class DecodedStore:
    """Decoded media end to end in one file."""

    def __init__(self, out: BinaryIO) -> None:
        """Write into `out`."""
        self._out = out

    def add(self, data: bytes, decoded: Decoded) -> None:
        """See `Store`."""
        self._out.write(decoded.tobytes())

    def facts(self) -> ShardFacts | None:
        """See `Store`."""
        return None


class PlanesStore(DecodedStore):
    """Decoded images end to end, each as its planes: [channels, height, width]."""

    @override
    def add(self, data: bytes, decoded: Decoded) -> None:
        """See `Store`."""
        super().add(data, decoded.transpose(2, 0, 1))


class EncodedStore:
    """Media in shards: the bytes of the source, or what the model takes of images, as PNG."""

    def __init__(
        self, shards: ShardWriter, form: Literal["source", "png"], url: str | None
    ) -> None:
        """Write into `shards`, which are put below `url`; None: they stay."""
        self._shards, self._form, self._url = shards, form, url

    def add(self, data: bytes, decoded: Decoded) -> None:
        """See `Store`."""
        if self._form == "png":
            data = encode_png(decoded.astype(np.uint8, copy=False), _FAST)
        self._shards.append(data)

    def facts(self) -> ShardFacts | None:
        """See `Store`."""
        self._shards.finish()
        facts: ShardFacts = {"form": self._form, "starts": self._shards.starts}
        if self._url is None:
            return facts
        return {**facts, "store": self._url, "digests": self._shards.names}


@dataclass(frozen=True)
class Stores:
    """Chooses how the media of a cache are kept."""

    folder: Path
    files: ExitStack
    """Closes what is opened."""
    limit_bytes: float
    """Of the decoded images, or clips, above which they stay encoded."""
    shard_bytes: float
    shards_at: str | None = None
    """URL of the folder of an object store that shards are put into; None: they stay."""

    def create(self, name: str) -> BinaryIO:
        """Open a file of the cache to write."""
        return self.files.enter_context((self.folder / name).open("wb"))

    def of_images(self, shape: tuple[int, int, int], sizes: "Sequence[SizeCount]") -> Store:
        """For images that become [height, width, channels]; `sizes` of the distinct ones."""
        count = sum(size["images"] for size in sizes)
        if count * float(np.prod(shape)) <= self.limit_bytes:
            return PlanesStore(self.create("images.bin"))
        pixels = sum(size["images"] * size["height"] * size["width"] for size in sizes)
        # Of those that are much larger what is left is kept: to decode them each time costs more.
        larger = pixels > _MUCH_LARGER * count * shape[0] * shape[1]
        return self._encoded("images", "png" if larger else "source")

    def of_clips(self, audio: "AudioShape", sample_rate: int) -> Store:
        """For clips of these lengths."""
        seconds = audio["clips"] * audio["mean_s"]
        if seconds * sample_rate * np.float32().nbytes <= self.limit_bytes:
            return self.decoded("audio")
        return self._encoded("audio", "source")

    def decoded(self, name: str) -> Store:
        """For media of any kind and size."""
        return DecodedStore(self.create(f"{name}.bin"))

    def _encoded(self, column: str, form: Literal["source", "png"]) -> Store:
        put = None if self.shards_at is None else ShardStore(self.shards_at).put
        shards = ShardWriter(self.folder, column, self.shard_bytes, self.files, put)
        return EncodedStore(shards, form, self.shards_at)
