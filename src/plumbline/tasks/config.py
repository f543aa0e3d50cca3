"""Settings of the tasks. No torch here: a wrong setting is told before it loads."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.loading.transform_config import ImageTransformConfig
from plumbline.models.config import DualEncoderConfig, VlmConfig


class AlignmentTaskConfig(Config):
    """What alignment optimises."""

    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    widths: list[int] = Field(default_factory=list)
    """Matryoshka prefix widths; empty: the full width alone."""
    sample_width: bool = False
    """Draw one of the widths per batch instead of adding them all up."""
    text_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a caption is replaced by the empty text in training."""
    max_text_tokens: int = Field(62, ge=1)
    """Longer captions are cut; bos and eos come on top."""
    images: ImageTransformConfig = Field(default_factory=ImageTransformConfig)

    @field_validator("widths")
    @classmethod
    def _distinct(cls, widths: list[int]) -> list[int]:
        if any(width < 1 for width in widths) or len(set(widths)) != len(widths):
            raise ValueError("widths must be positive and distinct")
        return widths

    @model_validator(mode="after")
    def _something_to_sample(self) -> "AlignmentTaskConfig":
        if self.sample_width and not self.widths:
            raise ValueError("sample_width is true, but widths is empty")
        return self


class AlignmentModelConfig(DualEncoderConfig):
    """The dual encoder, and which of its parts stay as they are."""

    freeze: list[str] = Field(default_factory=list)
    """Parts to freeze, such as text_encoder."""


class VlmTaskConfig(Config):
    """What the vision-language model learns to say."""

    caption_prompt: str = "describe the image"
    captions_per_image: int = Field(1, ge=0)
    """Captions drawn for an image in an epoch; 0: only questions."""
    questions_per_image: int | None = Field(None, ge=0)
    """Questions drawn for an image in an epoch; None: all."""
    max_text_tokens: int = Field(64, ge=2)
    """A longer prompt or answer is cut at its end."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "VlmTaskConfig":
        if self.captions_per_image == 0 and self.questions_per_image == 0:
            raise ValueError("captions_per_image and questions_per_image are both 0")
        return self


class VlmModelConfig(VlmConfig):
    """Projector and decoder beside the aligned encoder, and what stays frozen."""

    freeze: list[str] = Field(default_factory=lambda: ["image_encoder"])
    """Parts to freeze; a frozen image encoder runs once per distinct image."""
