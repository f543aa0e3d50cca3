"""What of a source is read: samples of an epoch, held as an array."""

from collections.abc import Sequence
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
