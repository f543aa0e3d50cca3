"""Settings of the tasks. No torch here: a wrong setting is told before it loads."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.loading.input_config import AnyInput, ImageInputConfig, InputConfig
from plumbline.losses.registry import CLASS_LOSSES
from plumbline.models.config import (
    CausalLmConfig,
    ClassifierConfig,
    DualEncoderConfig,
    MaskedLmConfig,
    Seq2SeqConfig,
)
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig


class TaskConfig(Config):
    """Base of what a kind of work optimises: section `task` of a training."""

    @property
    def has_lengths(self) -> bool:
        """Whether samples differ in length, so that batches can be cut and sorted by it."""
        return True

    def start_modality(self, model: Config) -> str | None:
        """The modality of the encoder that training takes from its start; None: it takes none."""
        return None

    def check_model(self, model: Config) -> None:
        """Refuse a section `model` that this work cannot be done with.

        What a checkpoint decides is not known here, but when it is loaded.

        Raises:
            ValueError: names both settings.
        """


class AlignmentTaskConfig(TaskConfig):
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

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, DualEncoderConfig)
        if self.widths and max(self.widths) > model.embed_dim:
            raise ValueError(
                f"task.widths: {max(self.widths)} is larger than model.embed_dim {model.embed_dim}"
            )
        longest = model.text_encoder.longest()
        if longest is not None and self.max_text_tokens + 2 > longest:
            raise ValueError(
                f"task.max_text_tokens {self.max_text_tokens}: with bos and eos that is more than "
                f"model.text_encoder.max_tokens {longest}"
            )
        medium = "image" if model.image_encoder else "audio"
        encoder = model.image_encoder or model.audio_encoder
        assert encoder is not None, "one of them is given"
        check_encoder(self.inputs, encoder, f"{medium}_encoder")


class VlmTaskConfig(TaskConfig):
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

    @property
    @override
    def has_lengths(self) -> bool:
        return False

    @override
    def start_modality(self, model: Config) -> str | None:
        return "image"


class PackedTaskConfig(TaskConfig):
    """What work on running text shares: how rows become samples."""

    block_size: int = Field(128, ge=2)
    """Tokens seen at a time, or in front of which the next one is predicted; longer rows are
    cut."""
    pack: bool = True
    """Read all rows as one stream, eos between them, in blocks without padding; text only."""

    @property
    @override
    def has_lengths(self) -> bool:
        return not self.pack


class CausalLmTaskConfig(PackedTaskConfig):
    """What the causal language model reads."""

    text: Literal["text", "question_answer"] = "text"
    """The column `text`, or questions with answers, of which only the answers carry loss."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _stream_of_text(self) -> "CausalLmTaskConfig":
        if self.pack and self.text == "question_answer":
            raise ValueError("pack is true, but questions and answers are rows: set it to false")
        return self

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, CausalLmConfig)
        decoder = model.decoder
        if not decoder.pretrained and self.block_size > decoder.max_positions:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.decoder.max_positions "
                f"{decoder.max_positions}"
            )


class MaskedLmTaskConfig(PackedTaskConfig):
    """What the masked language model has to guess."""

    masked_share: float = Field(0.15, gt=0.0, lt=1.0)
    """Of tokens to guess: 80 % of them are hidden, 10 % replaced by any token, 10 % kept."""

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, MaskedLmConfig)
        if not model.pretrained and self.block_size > model.max_positions:
            raise ValueError(
                f"task.block_size {self.block_size} is longer than model.max_positions "
                f"{model.max_positions}"
            )


class Seq2SeqTaskConfig(TaskConfig):
    """What the encoder-decoder learns to write."""

    max_source_tokens: int = Field(126, ge=1)
    max_target_tokens: int = Field(126, ge=1)
    """Longer texts are cut; what frames them comes on top."""
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, Seq2SeqConfig)
        longest = max(self.max_source_tokens, self.max_target_tokens) + 2
        if not model.pretrained and longest > model.max_positions:
            raise ValueError(
                f"task.max_source_tokens, max_target_tokens: up to {longest} with what frames "
                f"them, more than model.max_positions {model.max_positions}"
            )


def check_encoder(inputs: InputConfig, encoder: EncoderConfig, name: str) -> None:
    """Refuse inputs that an encoder cannot take; what a plugin's takes, it knows alone.

    Raises:
        ValueError: names both settings.
    """
    if encoder.takes is not None and inputs.modality not in encoder.takes:
        raise ValueError(
            f"task.inputs.modality {inputs.modality!r}, but model.{name} takes "
            f"{' or '.join(encoder.takes) or 'raw texts, which only alignments give it'}"
        )
    if isinstance(inputs, ImageInputConfig) and isinstance(encoder, ImageEncoderConfig):
        given, taken = inputs.normalize.channels, encoder.channels
        if given != taken:
            raise ValueError(
                f"task.inputs.normalize is for images of {given} channels, but model.{name}."
                f"channels is {taken}: make them the same"
            )
    longest, room = inputs.longest(), encoder.longest()
    if longest is not None and room is not None and longest > room:
        raise ValueError(
            f"task.inputs.{encoder.length_key}: up to {longest} with what frames them, more than "
            f"model.{name}.{encoder.length_key} {room}"
        )


class HeadedTaskConfig(TaskConfig):
    """What classification and regression share."""

    inputs: AnyInput

    @override
    def start_modality(self, model: Config) -> str | None:
        assert isinstance(model, ClassifierConfig)
        return self.inputs.modality if model.encoder is None else None

    @override
    def check_model(self, model: Config) -> None:
        assert isinstance(model, ClassifierConfig)
        if model.encoder is not None:
            check_encoder(self.inputs, model.encoder, "encoder")


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

    row_weights: bool = False
    """Whether errors are multiplied by the column `weight`, scaled to mean 1 over the training
    samples; a row without a weight has 1. Figures are of all rows alike."""
