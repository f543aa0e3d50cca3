"""The words that all layers share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Sample = Mapping[str, Any]
"""One training example as a dataset gives it."""

Batch = dict[str, Any]
"""Stacked examples: tensors with the batch as first dimension unless the collate function says
otherwise, and lists of strings for encoders that tokenise themselves."""

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
