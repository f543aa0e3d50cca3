"""How what a cache holds is distributed: tokens of rows, and media in which nothing changes.

Both are known where texts are encoded and media decoded, and no training reads them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.columns import TEXTS
from plumbline.shapes.distributed import Proposed
from plumbline.shapes.proposals import propose_context
from plumbline.shapes.spread import IntegerCounts, Spread
from plumbline.text import one_line

PAIRS: Mapping[str, Sequence[str]] = {"question and answer": ("question", "answer")}
"""Columns that a model is given one behind the other."""
FRAME = 2
"""Tokens before and behind a text; a conversation has those of its template."""


class ConstantMedia(TypedDict):
    """Media that say nothing."""

    media: int
    """Distinct ones, each in the first split that has it."""
    first: str
    """Sample id of the first row with one."""


class CacheSpread(TypedDict):
    """The whole of distributions.json of `tokenize_text`."""

    tokens: dict[str, dict[str, Spread]]
    """Split -> column, or columns that stand behind each other -> tokens, over all rows."""
    constant: dict[str, dict[str, ConstantMedia]]
    """Column -> split; absent where there is none."""
    proposals: list[Proposed]


class Lengths:
    """Tokens of each distinct text by its number; on disk, as there may be any number of them."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        """Keep them in a file that is gone when `files` are closed."""
        self._file = files.enter_context(TemporaryFile(dir=folder))  # noqa: SIM115

    def append(self, lengths: Sequence[int]) -> None:
        """Add those of the next numbers."""
        self._file.seek(0, 2)
        self._file.write(np.array(lengths, np.int32).tobytes())

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens by number, both [rows]."""
        distinct, places = np.unique(numbers, return_inverse=True)
        return np.array([self.one(number) for number in distinct.tolist()], np.int64)[places]

    def one(self, number: int) -> int:
        """Tokens of one text."""
        self._file.seek(4 * number)
        return int(np.frombuffer(self._file.read(4), np.int32)[0])


class SpreadOfCache:
    """Counts while a cache is written."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        """Count nothing yet; `folder` and `files` as of `Lengths`."""
        self.texts, self.turns = Lengths(folder, files), Lengths(folder, files)
        self._tokens: dict[str, dict[str, IntegerCounts]] = {}
        self._constant: dict[str, dict[str, ConstantMedia]] = {}

    def add(self, split: str, batch: pa.RecordBatch, constant: Mapping[str, Sequence[int]]) -> None:
        """Count the tokens and the media that say nothing in a batch.

        Args:
            split: of the batch.
            batch: rows whose texts and media stand as numbers.
            constant: column -> rows of the batch that are the first with such a medium.
        """
        for column, rows in constant.items():
            ids = batch.column("sample_id").take(pa.array(rows, pa.int32())).to_pylist()
            self._add_constant(column, split, ids)
        there = {
            name: batch.column(name).is_valid().to_numpy(zero_copy_only=False)
            for name in (*TEXTS, "turns")
            if name in batch.schema.names
        }
        tokens = {}
        for name, rows in there.items():
            tokens[name] = np.zeros(batch.num_rows, np.int64)
            if rows.any():
                lengths = self.turns if name == "turns" else self.texts
                numbers = batch.column(name).drop_null().to_numpy().astype(np.int64)
                tokens[name][rows] = lengths.of(numbers)
                self._count(split, name, tokens[name][rows])
        for pair, names in PAIRS.items():
            if set(names) <= set(there):
                rows = np.logical_and.reduce([there[name] for name in names])
                self._count(split, pair, np.add.reduce([tokens[name] for name in names])[rows])

    def _count(self, split: str, what: str, tokens: NDArray[np.int64]) -> None:
        if len(tokens):
            self._tokens.setdefault(split, {}).setdefault(what, IntegerCounts()).add(tokens)

    def _add_constant(self, column: str, split: str, sample_ids: Sequence[str]) -> None:
        if sample_ids:
            nothing: ConstantMedia = {"media": 0, "first": sample_ids[0]}
            found = self._constant.setdefault(column, {}).setdefault(split, nothing)
            found["media"] += len(sample_ids)

    def describe(self) -> CacheSpread:
        """All that was counted, and the context that the tokens of train ask for."""
        tokens = {
            split: {what: counts.describe() for what, counts in by_name.items()}
            for split, by_name in self._tokens.items()
        }
        proposals = [*_propose(tokens.get("train", {}))]
        return {"tokens": tokens, "constant": self._constant, "proposals": proposals}


def _propose(tokens: Mapping[str, Spread]) -> Iterator[Proposed]:
    paired = {name for pair, names in PAIRS.items() if pair in tokens for name in names}
    for what, spread in tokens.items():
        if what not in paired:
            yield propose_context(spread, 0 if what == "turns" else FRAME, what)


def describe_constant(found: CacheSpread) -> Iterator[str]:
    """A line for each column and split with media that say nothing."""
    names = {"image": "images of one colour", "audio": "silent clips"}
    for column, by_split in found["constant"].items():
        for split, constant in by_split.items():
            yield (
                f"{names[column]} in {split}: {constant['media']:,}, the first in row "
                f"{one_line(constant['first'])}; nothing can be learned of them"
            )
