"""Reading a training cache (`plumbline.tokenization.cache` says what is in it), memory-mapped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.errors import DataError
from plumbline.files import read_json, verify_digests

Int32 = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MediaRows:
    """What a split says about one image, clip or feature array, as numbers into the cache."""

    number: int
    """Of the medium."""
    captions: Int32
    """[captions] text numbers."""
    questions: Int32
    """[questions, 2] text numbers of question and answer."""


class TrainingCache:
    """A cache folder, opened and checked: media, texts with their ids, rows by split."""

    def __init__(self, folder: Path) -> None:
        """Open a cache.

        Raises:
            CheckpointError: a file is missing or its bytes have changed.
        """
        self.folder = folder
        self.digests = verify_digests(folder)
        self.facts: dict[str, Any] = read_json(folder / "cache.json")
        table = _open_arrow(folder / "texts.arrow")
        self._texts: pa.ChunkedArray = table["text"].combine_chunks()
        ids = table["ids"].combine_chunks()
        ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
        self._offsets: Int32 = ids.offsets.to_numpy()
        self._ids: Int32 = ids.values.to_numpy()
        self._ragged: dict[str, tuple[Floats, NDArray[np.int64]]] = {}

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have rows."""
        return sorted(self.facts["rows"])

    @property
    def images(self) -> NDArray[np.uint8]:
        """[images, height, width, 3] uint8, memory-mapped."""
        shape = self.facts.get("image_shape")
        if shape is None:
            raise DataError(f"{self.folder}: this dataset has no images")
        return np.memmap(
            self.folder / "images.bin", np.uint8, "r", shape=(self.facts["images"], *shape)
        )

    def audio(self, number: int) -> Floats:
        """The samples of a clip: float32 [samples], mono, at `facts["audio"]["sample_rate"]` Hz."""
        return self._ragged_row("audio", 1, number)[:, 0]

    def features(self, number: int) -> Floats:
        """A feature array: float32 [steps, channels]."""
        channels = self.facts["features"]["channels"] if "features" in self.facts else 1
        return self._ragged_row("features", channels, number)

    def _ragged_row(self, name: str, channels: int, number: int) -> Floats:
        if name not in self._ragged:
            if name not in self.facts:
                raise DataError(f"{self.folder}: this dataset has no {name}")
            values = np.memmap(self.folder / f"{name}.bin", np.float32, "r").reshape(-1, channels)
            offsets = np.fromfile(self.folder / f"{name}.offsets.bin", np.int64)
            self._ragged[name] = values, offsets
        values, offsets = self._ragged[name]
        return values[offsets[number] : offsets[number + 1]]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Length of every clip in samples (`audio`) or array in steps (`features`)."""
        self._ragged_row(name, self.facts.get(name, {}).get("channels", 1), 0)
        return np.diff(self._ragged[name][1])

    def text_lengths(self) -> Int32:
        """Token count of every text."""
        return np.diff(self._offsets)

    def text(self, number: int) -> str:
        """The raw text that has this number."""
        text: str = self._texts[number].as_py()
        return text

    def ids(self, number: int) -> Int32:
        """Token ids of a text, uncut, without bos and eos."""
        return self._ids[self._offsets[number] : self._offsets[number + 1]]

    def rows(self, split: str) -> dict[str, Int32]:
        """Numbers of a split's rows by column (media, texts, part, label); -1 where there is none.

        Raises:
            DataError: there is no such split.
        """
        table = self._split(split).drop_columns(["sample_id", "value"])
        filled = {name: table[name].fill_null(-1) for name in table.column_names}
        return {name: column.to_numpy().astype(np.int32) for name, column in filled.items()}

    def values(self, split: str) -> NDArray[np.float64]:
        """The numbers to predict, in row order; NaN where a row has none."""
        return np.array(self._split(split)["value"].fill_null(np.nan).to_numpy())

    def sample_ids(self, split: str) -> pa.ChunkedArray:
        """The sample ids of a split, in row order."""
        return self._split(split)["sample_id"]

    def _split(self, split: str) -> pa.Table:
        if split not in self.facts["rows"]:
            raise DataError(f"{self.folder}: no split {split!r}; there is {', '.join(self.splits)}")
        return _open_arrow(self.folder / f"{split}.arrow")

    def classes(self) -> dict[str, list[str]]:
        """Part -> its class names, in the order of the label numbers."""
        return {part: labels["classes"] for part, labels in self.facts["labels"].items()}

    def by_medium(self, split: str, column: str) -> list[MediaRows]:
        """Group the rows of a split by image or clip, in the order in which these first appear."""
        rows = self.rows(split)
        groups = []
        for part in group_rows(rows[column]):
            captions = rows["caption"][part]
            pairs = np.stack([rows["question"][part], rows["answer"][part]], axis=1)
            groups.append(
                MediaRows(
                    number=int(rows[column][part[0]]),
                    captions=captions[captions >= 0],
                    questions=pairs[(pairs >= 0).all(axis=1)],
                )
            )
        return groups


def group_rows(numbers: Int32) -> list[NDArray[np.int64]]:
    """Rows that share a number, as arrays of row positions; rows numbered -1 are left out."""
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 0) :]
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def _open_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
