"""Settings of an alignment. No torch here: a wrong setting is told before it loads."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.kind import KindSettings
from plumbline.loading.input_config import AnyInput, InputConfig
from plumbline.models.encoder_config import (
    AnyImageEncoder,
    AnyStepsEncoder,
    AnyTextEncoder,
    EncoderConfig,
)
from plumbline.registry import Registry, name_in
from plumbline.training.task_config import TaskConfig, check_encoder

PAIR_LOSSES: Registry[str] = Registry("loss of an alignment")
"""Name -> "module:function" of a `plumbline.losses.contrastive.PairLoss`."""

PAIR_LOSSES.register("info_nce", "plumbline.losses.contrastive:info_nce")
PAIR_LOSSES.register("sigmoid", "plumbline.losses.contrastive:sigmoid_pairs")


class DualEncoderConfig(Config):
    """Two encoders and the space that they share: images or audio on one side, text on the other.

    One of `image_encoder` and `audio_encoder` is given.
    """

    image_encoder: AnyImageEncoder | None = None
    """The encoder of images; None, where sounds are aligned."""
    audio_encoder: AnyStepsEncoder | None = None
    """The encoder of sounds or features; None, where images are aligned."""
    text_encoder: AnyTextEncoder
    """The encoder of captions."""
    embed_dim: int = Field(128, ge=2)
    """Width of the space that both sides are mapped into."""
    initial_temperature: float = Field(0.07, gt=0.0)
    """What similarities are divided by at the first step; it is learned from there on."""
    min_temperature: float = Field(0.01, gt=0.0)
    """The least that the learned temperature becomes."""

    @model_validator(mode="after")
    def _one_medium(self) -> "DualEncoderConfig":
        if (self.image_encoder is None) == (self.audio_encoder is None):
            raise ValueError("set one of image_encoder and audio_encoder, and the other to null")
        audio = self.audio_encoder
        if audio is not None and not audio.gives_one_vector:
            raise ValueError("audio_encoder.pooling none leaves no one vector: set flatten to true")
        return self

    @property
    def media(self) -> tuple[str, EncoderConfig]:
        """Name and settings of the encoder of the side that is not text."""
        if self.image_encoder is not None:
            return "image_encoder", self.image_encoder
        assert self.audio_encoder is not None, "one of them is given"
        return "audio_encoder", self.audio_encoder

    def sources(self) -> dict[str, str | None]:
        """Part -> the checkpoint that it starts from."""
        name, media = self.media
        return {name: media.source(), "text_encoder": self.text_encoder.source()}

    def without_sources(self) -> "DualEncoderConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        name, media = self.media
        return self.model_copy(
            update={
                name: media.without_sources(),
                "text_encoder": self.text_encoder.without_sources(),
            }
        )


class AlignmentTaskConfig(TaskConfig):
    """What alignment optimises."""

    inputs: AnyInput
    """How images or clips reach their encoder."""
    loss: Annotated[str, name_in(PAIR_LOSSES)] = "info_nce"
    """How pairs are told from the others of their step: `info_nce` by a softmax over them, both
    ways; `sigmoid` each pair by itself."""
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
    def reads(self) -> InputConfig:
        return self.inputs

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
        name, media = model.media
        check_encoder(self.inputs, media, name)

    @override
    def check_lone_sample(self) -> None:
        raise ValueError(
            "loader.batch_size 1 and trainer.grad_accum_steps 1: a pair is told from the others of "
            "its optimiser step, and there would be none; raise one of them"
        )


class AlignmentEvaluationConfig(EvaluationConfig):
    """Section `evaluate` of an alignment."""

    ks: list[Annotated[int, Field(ge=1)]] = Field([1, 5, 10], min_length=1)
    """Recall is measured at these ranks."""
    examples: int = Field(8, ge=0)
    """Media shown in the report with the captions found for them."""
    zero_shot: list[str] = Field(default_factory=list)
    """Prompt templates, such as "a photo of a {label}": their captions classify the media."""


class AlignmentExportConfig(ExportConfig):
    """Section `export` of an alignment."""

    enabled: bool = False
    """Whether a bundle is written that finds media by texts and by media; without one the output
    holds its settings alone."""
    gallery_split: Literal["train", "val", "test"] = "val"
    """Whose media can be found in the bundle, which holds them and their captions."""
    gallery_media: int = Field(200, ge=1, le=10_000)
    """How many of them, evenly spread over the split."""
    nearest: int = Field(12, ge=1, le=10_000)
    """How many an answer names, where a request does not say."""

    @override
    def splits(self) -> dict[str, str]:
        return {**super().splits(), "gallery_split": self.gallery_split}


SETTINGS = KindSettings(
    title="Alignment",
    model=DualEncoderConfig,
    task=AlignmentTaskConfig,
    evaluate=AlignmentEvaluationConfig,
    export=AlignmentExportConfig,
)
