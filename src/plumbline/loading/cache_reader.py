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


@dataclass(frozen=True)
class ImageRows:
    """What a split says about one image, as numbers into the cache."""

    image: int
    captions: Int32
    """[captions] text numbers."""
    questions: Int32
    """[questions, 2] text numbers of question and answer."""


class TrainingCache:
    """A cache folder, opened and checked: images, texts with their ids, rows by split."""

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

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have rows."""
        return sorted(self.facts["rows"])

    @property
    def images(self) -> NDArray[np.uint8]:
        """[images, height, width, 3] uint8, memory-mapped."""
        shape = self.facts["image_shape"]
        if shape is None:
            raise DataError(f"{self.folder}: this dataset has no images")
        return np.memmap(
            self.folder / "images.bin", np.uint8, "r", shape=(self.facts["images"], *shape)
        )

    def text(self, number: int) -> str:
        """The raw text that has this number."""
        text: str = self._texts[number].as_py()
        return text

    def ids(self, number: int) -> Int32:
        """Token ids of a text, uncut, without bos and eos."""
        return self._ids[self._offsets[number] : self._offsets[number + 1]]

    def rows(self, split: str) -> dict[str, Int32]:
        """Columns image, caption, question, answer of a split; -1 where a row has none.

        Raises:
            DataError: there is no such split.
        """
        if split not in self.facts["rows"]:
            raise DataError(f"{self.folder}: no split {split!r}; there is {', '.join(self.splits)}")
        table = _open_arrow(self.folder / f"{split}.arrow").drop_columns(["sample_id"])
        filled = {name: table[name].fill_null(-1) for name in table.column_names}
        return {name: column.to_numpy().astype(np.int32) for name, column in filled.items()}

    def sample_ids(self, split: str) -> pa.ChunkedArray:
        """The sample ids of a split, in row order."""
        return _open_arrow(self.folder / f"{split}.arrow")["sample_id"]

    def by_image(self, split: str) -> list[ImageRows]:
        """Group the rows of a split by image, in the order in which images first appear."""
        rows = self.rows(split)
        order = np.argsort(rows["image"], kind="stable")
        order = order[np.searchsorted(rows["image"][order], 0) :]
        starts = np.flatnonzero(np.diff(rows["image"][order], prepend=-1))
        groups = []
        for part in np.split(order, starts[1:]) if len(order) else []:
            captions = rows["caption"][part]
            pairs = np.stack([rows["question"][part], rows["answer"][part]], axis=1)
            groups.append(
                ImageRows(
                    image=int(rows["image"][part[0]]),
                    captions=captions[captions >= 0],
                    questions=pairs[(pairs >= 0).all(axis=1)],
                )
            )
        return groups


def _open_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
