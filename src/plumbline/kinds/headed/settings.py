"""Settings that classification and regression share. No torch here."""

from typing import Self

from pydantic import Field
from typing_extensions import override

from plumbline.config import Config
from plumbline.loading.input_config import AnyInput, InputConfig
from plumbline.models.encoder_config import (
    AnyEncoder,
)
from plumbline.training.task_config import TaskConfig, check_encoder


class ClassifierConfig(Config):
    """An encoder with a linear head for each part of the dataset, or for each number."""

    encoder: AnyEncoder | None = None
    """None: the one of the alignment or classifier in the task's `start`."""
    head_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a value in front of a head is left out in training."""
    num_classes: dict[str, int] = Field(default_factory=dict)
    """Part -> classes, for those who want it checked; the data settings decide."""

    def sources(self) -> dict[str, str | None]:
        """The checkpoints that parts start from."""
        return {"encoder": self.encoder.source() if self.encoder else None}

    def without_sources(self) -> Self:
        """The same model once it is trained."""
        encoder = self.encoder and self.encoder.without_sources()
        return self.model_copy(update={"encoder": encoder})


class HeadedTaskConfig(TaskConfig):
    """What classification and regression share."""

    inputs: AnyInput
    """How media or texts reach the encoder."""

    @override
    def start_modality(self, model: Config) -> str | None:
        assert isinstance(model, ClassifierConfig)
        return self.inputs.modality if model.encoder is None else None

    @override
    def reads(self) -> InputConfig:
        return self.inputs

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, ClassifierConfig)
        if model.encoder is not None:
            check_encoder(self.inputs, model.encoder, "encoder")


STARTS_FROM = ("alignment", "classification", "regression")
"""The kinds whose encoder a headed model can start with."""
