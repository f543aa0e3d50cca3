"""Lengths of texts and the most frequent answers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Texts:
    """Lengths in characters by column."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Describe these columns."""
        self._lengths = {name: _Lengths() for name in columns}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Measure the texts of a batch; all splits count."""
        for name, lengths in self._lengths.items():
            lengths.add(batch.column(name))

    def describe(self) -> dict[str, Any]:
        """Rows, longest and mean length of every column that has a text."""
        described = {name: found.describe() for name, found in self._lengths.items() if found.rows}
        return {"texts": described}


class Answers:
    """How often each answer occurs in train."""

    def __init__(self, max_listed: int) -> None:
        """List so many at most."""
        self._max_listed = max_listed
        self._counts: Counter[str] = Counter()

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Count the answers of a batch."""
        if split == "train":
            counts = pc.value_counts(batch.column("answer").drop_null())
            self._counts.update({c["values"].as_py(): c["counts"].as_py() for c in counts})

    def describe(self) -> dict[str, Any]:
        """The most frequent ones with their counts."""
        if not self._counts:
            return {}
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        listed = dict(ranked[: self._max_listed])
        return {"answers": {"distinct": len(self._counts), "most_frequent": listed}}


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

    def describe(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "longest_chars": self._longest,
            "mean_chars": round(self._characters / self.rows, 2),
        }
