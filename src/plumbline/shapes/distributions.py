"""How what a training is given is distributed, by view and split: the probe of distributions.json.

Media are measured by what their headers say; features, which hold nothing but numbers, are read.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plumbline.data.arrays import decode_features
from plumbline.data.clean_media import decoding
from plumbline.data.columns import CONTENT, SHOWN
from plumbline.data.disk_index import DiskCounter, DiskIndex
from plumbline.data.turns import parse_turns
from plumbline.shapes.batch_media import BatchMedia, Medium
from plumbline.shapes.distributed import ColumnSpread, ViewSpread
from plumbline.shapes.spread import IntegerCounts, ValueSpread, describe_values
from plumbline.shapes.targets import part_names

SHOWN_CHARS = 80
"""Of a text that is named."""
_DIGEST_BYTES = 16
_END = b"\0"

Mask = NDArray[np.bool_]


class _Column(Protocol):
    def add(self, batch: pa.RecordBatch, rows: Mask) -> None: ...

    def describe(self) -> ColumnSpread: ...


class Disk(NamedTuple):
    """What the measures of all columns keep outside the memory, each under its own beginning."""

    seen: DiskIndex
    texts: DiskCounter
    values: DiskCounter
    media: BatchMedia


def open_disk(folder: Path, media: BatchMedia, files: ExitStack) -> Disk:
    """Open temporary files in a folder that the caller removes."""
    seen = DiskIndex(folder / "seen.sqlite")
    texts, values = (DiskCounter(folder / f"{name}.sqlite") for name in ("texts", "values"))
    for one in (seen, texts, values):
        files.callback(one.close)
    return Disk(seen, texts, values, media)


class Views:
    """Measures the columns of each view in the rows that have all of them."""

    def __init__(self, views: Mapping[str, Sequence[str]], disk: Disk) -> None:
        """`views` as of `validate`: name -> columns."""
        self._views, self._disk = views, disk
        self._rows: dict[str, Counter[str]] = {view: Counter() for view in views}
        self._columns: dict[tuple[str, str], dict[str, _Column]] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Measure the rows of a batch."""
        there = {
            name: batch.column(name).is_valid().to_numpy(zero_copy_only=False)
            for name in batch.schema.names
        }
        nowhere = np.zeros(batch.num_rows, bool)
        for view, names in self._views.items():
            rows = np.logical_and.reduce([there.get(name, nowhere) for name in names])
            if not rows.any():
                continue
            self._rows[view][split] += int(rows.sum())
            place = (view, split)
            if place not in self._columns:
                self._columns[place] = dict(self._make(view, split, names))
            for column in self._columns[place].values():
                column.add(batch, rows)

    def _make(self, view: str, split: str, names: Sequence[str]) -> Iterator[tuple[str, _Column]]:
        for name in names:
            start = _beginning(view, split, name)
            kind = CONTENT[name]
            if name in SHOWN:
                yield name, _MEDIA[kind](name, start, self._disk)
            elif kind in ("text", "turns"):
                yield name, _Texts(name, start, self._disk.texts)

    def describe(self) -> dict[str, dict[str, ViewSpread]]:
        """View -> split -> what its columns are like."""
        return {
            view: {
                split: {
                    "rows": count,
                    "columns": {
                        name: column.describe()
                        for name, column in self._columns[view, split].items()
                    },
                }
                for split, count in rows.items()
            }
            for view, rows in self._rows.items()
        }


class Targets:
    """The numbers to predict by part and split, exactly, in rising order on disk."""

    def __init__(self, counts: DiskCounter) -> None:
        """`counts` is for these numbers alone."""
        self._counts = counts
        self._places: dict[str, dict[str, None]] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Count the numbers of a batch."""
        if "value" not in batch.schema.names:
            return
        found: dict[str, list[float]] = {}
        for part, text in zip(part_names(batch), batch.column("value").to_pylist(), strict=True):
            if text is not None:
                found.setdefault(part, []).append(float(text))
        for part, numbers in found.items():
            self._places.setdefault(part, {})[split] = None
            start = _beginning(part, split)
            keys, counts = np.unique(sortable(np.array(numbers)), return_counts=True)
            pairs = zip(keys.tolist(), counts.tolist(), strict=True)
            self._counts.add_many((start + key.to_bytes(8), count) for key, count in pairs)

    def describe(self) -> dict[str, dict[str, ValueSpread]]:
        """Part -> split -> how its numbers spread."""
        found: dict[str, dict[str, ValueSpread]] = {}
        for part in sorted(self._places):
            for split in self._places[part]:
                spread = describe_values(lambda at=(part, split): self._in_order(*at))  # type: ignore[misc]
                assert spread is not None, "the place was made for a number"
                found.setdefault(part, {})[split] = spread
        return found

    def _in_order(self, part: str, split: str) -> Iterator[tuple[float, int]]:
        for key, count in self._counts.in_order(_beginning(part, split)):
            yield from_sortable(int.from_bytes(key[-8:])), count


def sortable(numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Integers [count] in the order of the numbers; both zeros give the same."""
    bits = (numbers + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def from_sortable(key: int) -> float:
    """The number of which `sortable` made this."""
    bits = key ^ (1 << 63) if key >> 63 else key ^ (2**64 - 1)
    return float(np.uint64(bits).view(np.float64))


def _beginning(*names: str) -> bytes:
    return b"".join(name.encode() + _END for name in names)


class _Media(ABC):
    """What is shared: each distinct medium of the column is measured once."""

    def __init__(self, name: str, start: bytes, disk: Disk) -> None:
        self._name, self._start, self._disk = name, start, disk
        self._distinct = 0

    def add(self, batch: pa.RecordBatch, rows: Mask) -> None:
        cells = self._disk.media.cells(self._name, batch)
        for number in np.unique(cells.numbers[rows]).tolist():
            for medium in cells.media[number]:
                if self._disk.seen.number(self._start + medium.key)[1]:
                    self._distinct += 1
                    self._measure(medium)

    @abstractmethod
    def _measure(self, medium: Medium) -> None:
        """Take a medium that was not there before."""


class _Images(_Media):
    def __init__(self, name: str, start: bytes, disk: Disk) -> None:
        super().__init__(name, start, disk)
        self._modes: Counter[str] = Counter()
        self._sides = {name: IntegerCounts() for name in ("width", "height", "short", "aspect")}
        self._a_row = IntegerCounts()

    def add(self, batch: pa.RecordBatch, rows: Mask) -> None:
        super().add(batch, rows)
        if self._name == "images":
            cells = self._disk.media.cells(self._name, batch)
            shown = [len(cells.media[number]) for number in cells.numbers[rows].tolist()]
            self._a_row.add(np.array(shown, np.int64))

    def _measure(self, medium: Medium) -> None:
        image = self._disk.media.image(medium)
        self._modes[image.mode] += 1
        sides = {
            "width": image.width,
            "height": image.height,
            "short": min(image.width, image.height),
            "aspect": round(1000 * image.width / image.height),
        }
        for name, side in sides.items():
            self._sides[name].add_one(side)

    def describe(self) -> ColumnSpread:
        found: ColumnSpread = {
            "distinct": self._distinct,
            "modes": dict(sorted(self._modes.items(), key=lambda mode: (-mode[1], mode[0]))),
            "width": self._sides["width"].describe(),
            "height": self._sides["height"].describe(),
            "short_side": self._sides["short"].describe(),
            "aspect": self._sides["aspect"].describe(1000),
        }
        return {**found, "images_a_row": self._a_row.describe()} if self._a_row.count else found


class _Clips(_Media):
    def __init__(self, name: str, start: bytes, disk: Disk) -> None:
        super().__init__(name, start, disk)
        self._rates: Counter[int] = Counter()
        self._channels: Counter[int] = Counter()
        self._milliseconds = IntegerCounts()

    def _measure(self, medium: Medium) -> None:
        clip = self._disk.media.clip(medium)
        self._rates[clip.rate] += 1
        self._channels[clip.channels] += 1
        self._milliseconds.add_one(round(1000 * clip.seconds))

    def describe(self) -> ColumnSpread:
        return {
            "distinct": self._distinct,
            "sample_rates": {str(rate): self._rates[rate] for rate in sorted(self._rates)},
            "channels": {str(number): self._channels[number] for number in sorted(self._channels)},
            "seconds": self._milliseconds.describe(1000),
        }


class _Features(_Media):
    def __init__(self, name: str, start: bytes, disk: Disk) -> None:
        super().__init__(name, start, disk)
        self._steps, self._constant = IntegerCounts(), 0

    def _measure(self, medium: Medium) -> None:
        with decoding("feature array", medium.data):
            array = decode_features(medium.data)  # [steps, channels]
        self._steps.add_one(len(array))
        self._constant += len(array) > 1 and bool((array == array[0]).all())

    def describe(self) -> ColumnSpread:
        return {
            "distinct": self._distinct,
            "steps": self._steps.describe(),
            "constant": self._constant,
        }


_MEDIA: Mapping[str, type[_Images | _Clips | _Features]] = {
    "image": _Images,
    "images": _Images,
    "audio": _Clips,
    "features": _Features,
}


class _Texts:
    """Lengths over rows, and the text that most of them have."""

    def __init__(self, name: str, start: bytes, counts: DiskCounter) -> None:
        self._name, self._start, self._counts = name, start, counts
        self._chars, self._turns = IntegerCounts(), IntegerCounts()

    def add(self, batch: pa.RecordBatch, rows: Mask) -> None:
        column = batch.column(self._name).filter(pa.array(rows))
        texts, counts = (field.to_pylist() for field in pc.value_counts(column).flatten())
        keys = (self._start + _named(text) for text in texts)
        self._counts.add_many(zip(keys, counts, strict=True))
        if CONTENT[self._name] == "text":
            self._chars.add(pc.utf8_length(column).to_numpy().astype(np.int64))
            return
        talks = [parse_turns(text) for text in column.to_pylist()]
        said = [sum(len(turn["content"]) for turn in turns) for turns in talks]
        self._chars.add(np.array(said, np.int64))
        self._turns.add(np.array(list(map(len, talks)), np.int64))

    def describe(self) -> ColumnSpread:
        distinct, often, rows = 0, b"", 0
        for key, count in self._counts.in_order(self._start):
            distinct += 1
            if count > rows:
                often, rows = key, count
        text = often[len(self._start) + _DIGEST_BYTES :].decode()
        found: ColumnSpread = {
            "distinct": distinct,
            "chars": self._chars.describe(),
            "most_frequent": {"text": text, "rows": rows},
        }
        return {**found, "turns": self._turns.describe()} if self._turns.count else found


def _named(text: str) -> bytes:
    """What tells a text from every other one, and its beginning."""
    whole = text.encode()
    return hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest() + text[:SHOWN_CHARS].encode()
