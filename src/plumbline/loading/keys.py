"""What of a source is read: samples of an epoch, held as an array, and a process's share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

SampleKey = tuple[int, int, bool]
"""(sample, epoch, whether it counts)."""


class Keys(Sequence[SampleKey]):
    """Keys of samples of one epoch, which all count or none does."""

    def __init__(self, indices: Indices, epoch: int, *, counted: bool = True) -> None:
        """Hold the indices [samples]."""
        self.indices, self.epoch, self.counted = indices, epoch, counted

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    @overload
    def __getitem__(self, at: int) -> SampleKey: ...

    @overload
    def __getitem__(self, at: slice) -> "Keys": ...

    def __getitem__(self, at: int | slice) -> "SampleKey | Keys":
        """The key of a sample, or those of a part."""
        if isinstance(at, slice):
            return Keys(self.indices[at], self.epoch, counted=self.counted)
        return int(self.indices[at]), self.epoch, self.counted


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes takes."""

    rank: int = 0
    count: int = 1
    stand_in: bool = False
    """Whether an empty share gets a sample to be computed and not counted, for processes that can
    only compute together."""

    def of(self, batch: Indices) -> Indices:
        """This share of the indices [samples]: those of all shares, in order, are the batch."""
        # Sizes differ by one at most, the larger first: gathered in order they are the batch again.
        return np.array_split(batch, self.count)[self.rank]

    def may_be_one_of(self, size: int, cut: int | None = None) -> bool:
        """Whether a process computes a single sample of a batch of so many, cut as by `cut`."""
        sizes = [size // self.count, -(-size // self.count)]
        ends = {part % cut if cut else part for part in sizes}
        fewer = sizes[0] == 0 or (cut and -(-sizes[0] // cut) < -(-sizes[1] // cut))
        return cut == 1 or 1 in ends or bool(self.stand_in and fewer)

    def keys(self, batch: Indices, epoch: int) -> Keys:
        """What to read of indices [samples] for this share."""
        mine = self.of(batch)
        read = batch[-1:] if self.stand_in and not len(mine) else mine
        return Keys(read, epoch, counted=len(mine) > 0)

    def cut(self, batch: Indices, epoch: int, size: int | None) -> list[Keys]:
        """What to read of indices [samples] in pieces of up to `size`; None: in one.

        Every share of a batch has as many, so that the processes meet after each: a piece may be
        empty, as a share may.
        """
        keys = self.keys(batch, epoch)
        if size is None:
            return [keys]
        largest = -(-len(batch) // self.count)  # samples of the largest share
        starts = range(0, max(1, largest), size)
        nothing = Keys(batch[-1:] if self.stand_in else batch[:0], epoch, counted=False)
        return [keys[at : at + size] or nothing for at in starts]
