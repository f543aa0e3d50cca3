"""The words that all layers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

Sample = Mapping[str, Any]
"""One training example as a dataset gives it."""

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


def sample_numbers(samples: Sequence[Sample]) -> list[int]:
    """The numbers of samples, for the record of a step that went wrong."""
    return [int(sample["index"]) for sample in samples]
