"""Settings of the tasks. No torch here: a wrong setting is told before it loads."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.loading.input_config import AnyInput
from plumbline.losses.registry import CLASS_LOSSES


class AlignmentTaskConfig(Config):
    """What alignment optimises."""

    inputs: AnyInput
    """How images or clips reach their encoder."""
    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    widths: list[int] = Field(default_factory=list)
    """Matryoshka prefix widths; empty: the full width alone."""
    sample_width: bool = False
    """Draw one of the widths per batch instead of adding them all up."""
    text_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a caption is replaced by the empty text in training."""
    max_text_tokens: int = Field(62, ge=1)
    """Longer captions are cut; bos and eos come on top."""

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


class CausalLmTaskConfig(Config):
    """What the causal language model reads."""

    text: Literal["text", "question_answer"] = "text"
    """The column `text`, or questions with answers, of which only the answers carry loss."""
    block_size: int = Field(128, ge=2)
    """Tokens in front of which the next one is predicted; longer rows are cut."""
    pack: bool = True
    """Read all rows as one stream, eos between them, in blocks without padding; text only."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _stream_of_text(self) -> "CausalLmTaskConfig":
        if self.pack and self.text == "question_answer":
            raise ValueError("pack is true, but questions and answers are rows: set it to false")
        return self


class MaskedLmTaskConfig(Config):
    """What the masked language model has to guess."""

    block_size: int = Field(128, ge=2)
    """Tokens seen at a time; longer rows are cut."""
    pack: bool = True
    """Read all rows as one stream, eos between them, in blocks without padding."""
    masked_share: float = Field(0.15, gt=0.0, lt=1.0)
    """Of tokens to guess: 80 % of them are hidden, 10 % replaced by any token, 10 % kept."""


class Seq2SeqTaskConfig(Config):
    """What the encoder-decoder learns to write."""

    max_source_tokens: int = Field(126, ge=1)
    max_target_tokens: int = Field(126, ge=1)
    """Longer texts are cut; what frames them comes on top."""
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)


class HeadedTaskConfig(Config):
    """What classification and regression share."""

    inputs: AnyInput


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


class RegressionTaskConfig(HeadedTaskConfig):
    """What the regressor optimises: the squared error of the standardised numbers."""
