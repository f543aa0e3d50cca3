"""The contract between a kind of work and the training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from torch import nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.config import Config
from plumbline.loading.loader import SampleSource


def no_metrics(model: nn.Module) -> Mapping[str, float]:
    """The validation metrics of a task that has none but its loss."""
    return {}


@dataclass(frozen=True)
class Task:
    """What the loop needs to know of a kind of work; it never asks which one it runs.

    A batch carries `sample_index` [batch], the numbers of its samples, for the record of a step
    that went wrong; every other key is between `collate` and `loss`.
    """

    name: str
    collate: Callable[[Sequence[Sample]], Batch]
    """Samples -> one padded batch."""
    loss: Callable[[nn.Module, Batch], LossSum]
    """The sum over what counts, and the count."""
    validation_metrics: Callable[[nn.Module], Mapping[str, float]] = no_metrics
    """Metrics of the whole validation split beside its loss, higher or lower as they are."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a training needs beside its settings, as a task's own file builds it."""

    model: nn.Module
    task: Task
    train: SampleSource
    validation: SampleSource | None
    spec: Config
    """How to build and feed the model; stored beside the weights."""
    tokenizer: Tokenizer
    inputs: Mapping[str, str]
    """Digests of what the training reads, by name."""
    validation_task: Task | None = None
    """Where batches are made differently without augmentation; None: as in training."""
