"""Lengths of texts and the most frequent answers."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from plumbline.data.columns import CONTENT
from plumbline.data.disk_index import DiskCounter
from plumbline.data.turns import parse_turns
from plumbline.shapes.described import Described, TextShape


class Texts:
    """Lengths in characters by column."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Describe these columns."""
        self._lengths = {
            name: _TurnLengths() if CONTENT[name] == "turns" else _Lengths() for name in columns
        }

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Measure the texts of a batch; all splits count."""
        for name, lengths in self._lengths.items():
            lengths.add(batch.column(name))

    def describe(self) -> Described:
        """Rows, longest and mean length of every column that has a text."""
        described = {name: found.describe() for name, found in self._lengths.items() if found.rows}
        return {"texts": described}


class Answers:
    """How often each answer occurs in train."""

    def __init__(self, max_listed: int, counts: DiskCounter) -> None:
        """List so many at most; `counts` is for the answers alone."""
        self._max_listed = max_listed
        self._counts = counts

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Count the answers of a batch."""
        if split == "train":
            for found in pc.value_counts(batch.column("answer").drop_null()):
                self._counts.add(found["values"].as_py().encode(), found["counts"].as_py())

    def describe(self) -> Described:
        """The most frequent ones with their counts."""
        if not (distinct := len(self._counts)):
            return {}
        # UTF-8 sorts as its characters do.
        ranked = self._counts.most_frequent(self._max_listed)
        listed = {answer.decode(): count for answer, count in ranked}
        return {"answers": {"distinct": distinct, "most_frequent": listed}}


class _Lengths:
    def __init__(self) -> None:
        self.rows = 0
        self._characters = 0
        self._longest = 0

    def add(self, column: pa.Array) -> None:
        self._add(pc.utf8_length(column.drop_null()))

    def _add(self, lengths: pa.Array) -> None:
        self.rows += len(lengths)
        self._characters += pc.sum(lengths).as_py() or 0
        self._longest = max(self._longest, pc.max(lengths).as_py() or 0)

    def describe(self) -> TextShape:
        return {
            "rows": self.rows,
            "longest_chars": self._longest,
            "mean_chars": round(self._characters / self.rows, 2),
        }


class _TurnLengths(_Lengths):
    def __init__(self) -> None:
        super().__init__()
        self._turns = 0
        self._most_turns = 0

    @override
    def add(self, column: pa.Array) -> None:
        talks = [parse_turns(text) for text in column.drop_null().to_pylist()]
        said = [sum(len(turn["content"]) for turn in turns) for turns in talks]
        self._add(pa.array(said, pa.int64()))
        self._turns += sum(map(len, talks))
        self._most_turns = max(self._most_turns, *map(len, talks), 0)

    @override
    def describe(self) -> TextShape:
        mean = round(self._turns / self.rows, 2)
        return {**super().describe(), "longest_turns": self._most_turns, "mean_turns": mean}
