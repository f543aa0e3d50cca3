"""What metrics.json of a trained model holds. No torch here: the report reads it as well."""

from typing import NotRequired, TypedDict


class ParameterCounts(TypedDict):
    """Parameters of a part of a model."""

    all: int
    trained: int


class AdapterFigures(TypedDict):
    """What is said of one adapter."""

    parameters: int
    layers: int
    base: str
    """float32, or the 4-bit type that the part was held in while the adapter trained."""
    merged_difference: float
    """Largest difference of a layer's output once it is merged, relative to the largest output."""


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
    adapters: NotRequired[dict[str, AdapterFigures]]
    parameters: dict[str, ParameterCounts]
    """By part of the model."""
    best: NotRequired[BestFigures]
    """Absent: the training had no validation."""
