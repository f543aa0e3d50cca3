"""Sizes of images and lengths of clips, from their headers; each distinct file counts once."""

import struct
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from plumbline.data.disk_index import DiskCounter, DiskIndex
from plumbline.shapes.batch_media import BatchMedia, Medium
from plumbline.shapes.described import AudioShape, Described, SizeCount

MAX_SIZES = 1000
"""Sizes of images that are listed."""

_SIZE = struct.Struct(">II")  # packed so, sizes sort as numbers do


def new_media(
    column: str, batch: pa.RecordBatch, seen: DiskIndex, media: BatchMedia
) -> Iterator[Medium]:
    """The distinct media of a column that no batch before had, in row order."""
    for cell in media.cells(column, batch).media:
        for medium in cell:
            _, new = seen.number(medium.key)
            if new:
                yield medium


class ImageShapes:
    """Heights and widths, after EXIF orientation."""

    columns = ("image", "images")

    def __init__(self, seen: DiskIndex, sizes: DiskCounter, media: BatchMedia) -> None:
        """`seen` is shared with the other media, `sizes` is for the images alone."""
        self._seen, self._media = seen, media
        self._sizes = sizes

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Look at the images of a batch."""
        for column in [name for name in self.columns if name in batch.schema.names]:
            for medium in new_media(column, batch, self._seen, self._media):
                image = self._media.image(medium)
                self._sizes.add(_SIZE.pack(image.height, image.width))

    def describe(self) -> Described:
        """The most frequent sizes with their number of images; nothing where there is none."""
        ranked = [(*_SIZE.unpack(size), n) for size, n in self._sizes.most_frequent(MAX_SIZES)]
        if not ranked:
            return {}
        sizes: list[SizeCount] = [{"height": h, "width": w, "images": n} for h, w, n in ranked]
        return {"image": {"sizes": sizes}}


class AudioShapes:
    """Rates in Hz, channels and seconds; nothing is decoded."""

    column = "audio"

    def __init__(self, seen: DiskIndex, media: BatchMedia) -> None:
        """`seen` is shared with the other media."""
        self._seen, self._media = seen, media
        self._rates: Counter[int] = Counter()
        self._channels: Counter[int] = Counter()
        self._seconds = 0.0
        self._longest = 0.0

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Look at the clips of a batch."""
        for medium in new_media(self.column, batch, self._seen, self._media):
            header = self._media.clip(medium)
            self._rates[header.rate] += 1
            self._channels[header.channels] += 1
            self._seconds += header.seconds
            self._longest = max(self._longest, header.seconds)

    def describe(self) -> Described:
        """Number of clips by rate and by channels, longest and mean length, if there are any."""
        clips = self._rates.total()
        if not clips:
            return {}
        described: AudioShape = {
            "clips": clips,
            "sample_rates": {str(rate): self._rates[rate] for rate in sorted(self._rates)},
            "channels": {str(number): self._channels[number] for number in sorted(self._channels)},
            "longest_s": round(self._longest, 6),
            "mean_s": round(self._seconds / clips, 6),
        }
        return {"audio": described}
