"""An input whose values a frozen encoder has encoded before."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.batch import Batch, Sample
from plumbline.loading.inputs import Input, Value
from plumbline.loading.kept_features import KEPT, KeptFeatures


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
