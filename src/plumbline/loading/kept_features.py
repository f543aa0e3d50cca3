"""What a frozen encoder made of its inputs, read in place of the inputs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from plumbline.batch import Batch, Sample
from plumbline.loading.inputs import Input, Value

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


class KeptInput(Input):
    """kept [batch, width]: what a frozen encoder made of the values of another input."""

    names = (KEPT,)

    def __init__(self, plain: Input, features: KeptFeatures) -> None:
        """Stand for `plain`, whose values have been encoded; batches are cut as of its values."""
        self._plain, self._features = plain, features

    @override
    def fetch(self, number: int) -> Value:
        """The number itself, []: features are gathered at once by `collate`."""
        return np.asarray(number)

    @override
    def fetch_all(self, numbers: NDArray[np.integer]) -> Sequence[Value]:
        """The numbers themselves, [batch]."""
        return cast(Sequence[Value], numbers)

    @override
    def draws(self, samples: Sequence[Sample], seed: int) -> list[Generator] | None:
        return None

    @override
    def length(self, number: int) -> int:
        return self._plain.length(number)

    @override
    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """Features [batch, width] of the numbers."""
        return {KEPT: self._features.gather(np.asarray(values))}
