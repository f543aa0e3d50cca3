"""Settings of a classification task. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from plumbline.errors import ConfigError
from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.kinds.headed.settings import HeadedTaskConfig
from plumbline.losses.registry import CLASS_LOSSES


class ClassificationEvaluationConfig(TaskEvaluationConfig):
    """Section `evaluate` of a classification task."""


class ClassificationTaskConfig(HeadedTaskConfig):
    """What the classifier optimises; a dataset of several parts gets a head for each."""

    loss: str = "cross_entropy"
    """One of `plumbline.losses.registry.CLASS_LOSSES`."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    class_weights: (
        Literal["none", "balanced"] | dict[str, list[Annotated[float, Field(ge=0.0)]]]
    ) = "none"
    """balanced: n / (classes * n of the class) over the training labels; or part -> weights."""

    @field_validator("loss")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            CLASS_LOSSES[name]
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name
