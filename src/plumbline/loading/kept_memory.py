"""Memory for batches that is used again: new memory costs more than what is written into it."""

import math
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.generic]

MOST = 4
"""Arrays that are kept. A training holds the batch of its step and the one that is being made."""


class KeptMemory:
    """Gives memory that it has given before as soon as nobody holds what was in it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Hold nothing yet; of values of `dtype`."""
        self._kept: list[Array] = []
        self._dtype = dtype

    def take(self, *shape: int) -> Tensor:
        """Memory of a shape [...] with whatever was in it.

        A tensor made from an array counts as one who holds it, and so does every view of the
        tensor, be it one that a graph keeps.
        """
        size = math.prod(shape)
        holders = _count_holders(self._kept)
        free = [at for at, count in enumerate(holders) if count == _NONE]
        chosen = next((self._kept[at] for at in free if self._kept[at].size >= size), None)
        if chosen is None:
            # None of them is large enough, and it would only lie there.
            self._kept = [array for at, array in enumerate(self._kept) if at not in free]
            # Of torch's making: it lies where layers are used to find their inputs.
            chosen = torch.empty(size, dtype=self._dtype).numpy()
            if len(self._kept) < MOST:
                self._kept.append(chosen)
        return torch.from_numpy(chosen[:size].reshape(shape))


def _count_holders(arrays: list[Array]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


_NONE = _count_holders([np.empty(0, np.float32)])[0]
"""What is counted for an array that the list alone holds."""
