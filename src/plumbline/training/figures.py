"""What metrics.json of a trained model holds. No torch here: the report reads it as well."""

from typing import NotRequired, TypedDict


class ParameterCounts(TypedDict):
    """Parameters of a part of a model."""

    all: int
    trained: int


class BestFigures(TypedDict):
    """The best validation."""

    value: float
    epoch: int
    step: int


class TrainingFigures(TypedDict):
    """The figures of a training."""

    optimizer_steps: int
    micro_steps: int
    samples: int
    targets: int
    epochs: int
    skipped_steps: int
    final_train_loss: float | None
    """None: the loss of no step is finite."""
    frozen_tensors_unchanged: int
    parameters: dict[str, ParameterCounts]
    """By part of the model."""
    best: NotRequired[BestFigures]
    """Absent: the training had no validation."""
