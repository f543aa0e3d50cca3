"""Which samples share a row, one behind the other, in place of padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plumbline.loading.loader import pad_rows

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Rows of whole samples."""

    rows: list[list[int]]
    """Of each row the places of its samples in the batch, in order."""

    @classmethod
    def of(cls, lengths: Whole, *, one_row: bool) -> "Layout":
        """A layout for samples of these lengths, [samples, streams]."""
        return cls.in_one_row(len(lengths)) if one_row else cls.first_fit(lengths)

    @classmethod
    def in_one_row(cls, samples: int) -> "Layout":
        """All samples in their order."""
        return cls([list(range(samples))])

    @classmethod
    def first_fit(cls, lengths: Whole) -> "Layout":
        """Rows no longer than the longest sample: as few as first-fit decreasing finds.

        Args:
            lengths: [samples, streams]; a sample needs room in every stream of its row, such as
                that of sources and that of targets.

        Source: Johnson 1973, "Near-optimal bin packing algorithms".
        """
        most = lengths.max(axis=0)  # [streams]
        rows: list[list[int]] = []
        rooms: list[Whole] = []
        # Stable: the rows of a batch are the same on any machine.
        for sample in np.argsort(-lengths.sum(axis=1), kind="stable").tolist():
            needed = lengths[sample]
            found = next((at for at, room in enumerate(rooms) if (needed <= room).all()), None)
            if found is None:
                rows.append([sample])
                rooms.append(most - needed)
            else:
                rows[found].append(sample)
                rooms[found] = rooms[found] - needed
        return cls(rows)

    def join(self, parts: Sequence[NDArray[np.integer]], fill: int) -> Tensor:
        """Lay what each sample has, [length] each, to [rows, longest], filled up at the end."""
        joined = [np.concatenate([parts[sample] for sample in row]) for row in self.rows]
        return torch.from_numpy(pad_rows(joined, fill))

    def positions(self, lengths: Sequence[int]) -> Tensor:
        """Positions [rows, longest], which begin at 0 in every sample."""
        return self.join([np.arange(length) for length in lengths], 0)

    def spans(self, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
        """What `packed_attention` takes for a mask: how many positions each sample has.

        Returns:
            [rows, 1, samples of the fullest row, 2] int64 of queries and keys; 0 where there are
            no more samples.
        """
        spans = np.zeros((len(self.rows), 1, max(map(len, self.rows)), 2), np.int64)
        for at, row in enumerate(self.rows):
            # Rows with fewer samples end in spans of 0.
            spans[at, 0, : len(row)] = [(queries[sample], keys[sample]) for sample in row]
        return torch.from_numpy(spans)
