"""Lengths of texts and the most frequent answers."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from plumbline.data.disk_index import DiskCounter
from plumbline.shapes.described import Described, TextShape


class Texts:
    """Lengths in characters by column."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Describe these columns."""
        self._lengths = {name: _Lengths() for name in columns}

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
        lengths = pc.utf8_length(column.drop_null())
        self.rows += len(lengths)
        self._characters += pc.sum(lengths).as_py() or 0
        self._longest = max(self._longest, pc.max(lengths).as_py() or 0)

    def describe(self) -> TextShape:
        return {
            "rows": self.rows,
            "longest_chars": self._longest,
            "mean_chars": round(self._characters / self.rows, 2),
        }
