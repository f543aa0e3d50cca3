"""What a frozen encoder made of its inputs, read in place of the inputs themselves."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = "kept"
"""Key of a batch's inputs under which an encoder finds what it made of them before."""


@dataclass(frozen=True)
class KeptFeatures:
    """Features of distinct values, by the numbers that values have in a cache."""

    rows: NDArray[np.generic]
    """[distinct values, ...], memory-mapped; of bfloat16, which numpy does not have, the bits."""
    places: NDArray[np.int64]
    """[numbers] the row of each; -1 where none was asked for. The last one is that of number -1."""

    def take(self, numbers: int | NDArray[np.integer]) -> NDArray[np.generic]:
        """The rows of some numbers: [numbers, ...], or [...] of one."""
        # Of an array of numbers a copy; of one number a view of the map.
        taken: NDArray[np.generic] = self.rows[self.places[numbers]]
        return taken

    def gather(self, numbers: NDArray[np.integer]) -> Tensor:
        """The features of some numbers [numbers], in one read: [numbers, ...]."""
        return as_tensor(self.take(numbers))


def as_tensor(rows: NDArray[np.generic]) -> Tensor:
    """A tensor [...] of copied rows, in the type in which features were kept."""
    found = torch.from_numpy(rows)
    return found.view(torch.bfloat16) if rows.dtype == np.uint16 else found


def widen(features: Tensor) -> Tensor:
    """Features [...] in float32 that travelled in half precision: layers decide on their own."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
