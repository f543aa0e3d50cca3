"""The samples of regression: inputs with a number in each part that has one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import Columns, Sample
from plumbline.errors import DataError
from plumbline.kinds.headed.rows import HeadedRows
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import Input


class NumberedRows(HeadedRows):
    """Inputs with a number in each part that has one."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        inputs: Input,
        source: str,
        parts: Sequence[str],
    ) -> None:
        """Find the inputs that have a number; the arguments are those of `HeadedRows`.

        Raises:
            DataError: there is none.
        """
        values = cache.values(split)
        super().__init__(cache, split, inputs, source, parts, ~np.isnan(values))
        if not len(self):
            raise DataError(f"{cache.folder}: no {source} with a value in split {split!r}")
        inputs.say_cut(split, self.numbers)
        # -1 reads the last row, whose number the condition throws away.
        self.values = np.where(self.rows >= 0, values[self.rows], np.nan)
        """[samples, parts], in the units of the data; NaN where there is none."""
        weights = cache.weights(split)
        self.weights: NDArray[np.float64] | None = None
        """[samples, parts], 0 where there is no value; None where the dataset has none."""
        if weights is not None:
            self.weights = np.where(self.rows >= 0, weights[self.rows], 0.0)
            if (self.weights < 0).any():
                raise DataError(
                    f"{cache.folder}: weight {self.weights.min():g} in split {split!r}; weights "
                    "must not be negative"
                )

    def sample(self, index: int, epoch: int) -> Sample:
        """An input with its numbers, and their weights where the dataset has them."""
        # Left out where there are none: `collate` asks for them where they scale errors.
        weights = {} if self.weights is None else {"weights": self.weights[index]}
        return {**self.fetch(index, epoch), "targets": self.values[index], **weights}

    def samples(self, indices: NDArray[np.int64], epoch: int) -> Columns:
        """The same of several [samples]."""
        weights = {} if self.weights is None else {"weights": self.weights[indices]}
        targets = self.values[indices]
        return Columns({**self.fetch_all(indices, epoch), "targets": targets, **weights})
