"""The words that all layers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Sample = Mapping[str, Any]
"""One training example as a dataset gives it."""

Column = Sequence[Any] | NDArray[np.generic]
"""What samples have under one name: [samples, ...] where it is stacked already."""


class Columns(Sequence[Sample]):
    """Samples that are held by column: a sequence like any other, but stacked already."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        """Hold columns of one length."""
        self.columns: Mapping[str, Any] = columns

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.columns.values())))

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> "Columns": ...

    def __getitem__(self, at: int | slice) -> "Sample | Columns":
        """A sample, or those of a part."""
        found = {name: values[at] for name, values in self.columns.items()}
        return Columns(found) if isinstance(at, slice) else found


def column(samples: Sequence[Sample], name: str) -> Sequence[Any]:
    """What samples have under a name: [samples, ...]."""
    if isinstance(samples, Columns):
        values: Sequence[Any] = samples.columns[name]
        return values
    return [sample[name] for sample in samples]


Batch = dict[str, Any]
"""Stacked examples: tensors with the batch as first dimension unless the collate function says
otherwise, lists of strings for encoders that tokenise themselves, and deferred values."""


class Deferred(ABC):
    """A value of a batch that is smaller before it is finished, so that it travels so."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same, of changed tensors [batch, ...]."""

    @abstractmethod
    def finish(self) -> Tensor:
        """What the model is given, on the device where the tensors are: [batch, ...]."""


def map_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """A batch with changed tensors [batch, ...], also those within mappings and deferred values."""

    def changed(value: object) -> object:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, Deferred):
            return value.map(change)
        return map_tensors(value, change) if isinstance(value, dict) else value

    return {name: changed(value) for name, value in batch.items()}


def finish(batch: Batch) -> Batch:
    """A batch whose deferred values are finished, where its tensors are."""

    def finished(value: object) -> object:
        if isinstance(value, Deferred):
            return value.finish()
        return finish(value) if isinstance(value, dict) else value

    return {name: finished(value) for name, value in batch.items()}


IGNORE_INDEX = -100
"""Label of a position that carries no loss."""


@dataclass(frozen=True)
class LossSum:
    """A loss as sum and count, so that accumulation and data parallelism are exact.

    The trainer divides the sums of an optimiser step by the counts of that whole step.
    """

    total: Tensor
    """Scalar: the sum over everything that counts, in nats."""
    count: Tensor
    """Scalar: how many targets the sum is over; 0 when all are ignored (then total is 0 too)."""


def labelled_places(labels: Tensor) -> dict[str, Tensor]:
    """Where labels [rows, seq] are, for a batch: `labelled` [n] int64, of the flattened places.

    Known before a device has them: it would make the host wait for their number. Nothing where all
    places have a label, as in running text.
    """
    places = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    return {} if len(places) == labels.numel() else {"labelled": places}


def sample_numbers(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The numbers of samples [samples], for the record of a step that went wrong."""
    return np.array(column(samples, "index"), np.int64)
