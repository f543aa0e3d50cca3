"""Settings of the models. No torch here: a wrong setting is told before anything heavy loads."""

from typing import Self

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.models.encoder_config import (
    AnyEncoder,
    AnyImageEncoder,
    AnySequenceEncoder,
    AnyTextEncoder,
)


class DualEncoderConfig(Config):
    """Two encoders and the space that they share: images or audio on one side, text on the other.

    One of `image_encoder` and `audio_encoder` is given.
    """

    image_encoder: AnyImageEncoder | None = None
    audio_encoder: AnySequenceEncoder | None = None
    text_encoder: AnyTextEncoder
    embed_dim: int = Field(128, ge=2)
    initial_temperature: float = Field(0.07, gt=0.0)
    min_temperature: float = Field(0.01, gt=0.0)

    @model_validator(mode="after")
    def _one_medium(self) -> "DualEncoderConfig":
        if (self.image_encoder is None) == (self.audio_encoder is None):
            raise ValueError("set one of image_encoder and audio_encoder, and the other to null")
        audio = self.audio_encoder
        if audio is not None and audio.pooling == "none" and not audio.flatten:
            raise ValueError("audio_encoder.pooling none leaves no one vector: set flatten to true")
        return self

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        images = self.image_encoder.sources() if self.image_encoder else []
        return [*images, *self.text_encoder.sources()]

    def without_sources(self) -> "DualEncoderConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        update: dict[str, object] = {"text_encoder": self.text_encoder.without_sources()}
        if self.image_encoder:
            update["image_encoder"] = self.image_encoder.without_sources()
        return self.model_copy(update=update)


class DecoderConfig(Config):
    """A Qwen3-type causal decoder: from these sizes, or from a checkpoint of that kind."""

    pretrained: str | None = None
    """A local folder or a hub id; then the sizes below are not used."""
    width: int = Field(192, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(6, ge=1)
    kv_heads: int = Field(6, ge=1)
    mlp_width: int = Field(512, ge=8)
    max_positions: int = Field(512, ge=16)

    @model_validator(mode="after")
    def _fits(self) -> "DecoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self


class VlmConfig(Config):
    """What is added to the aligned image encoder: projector and decoder."""

    projector_width: int = Field(256, ge=8)
    """Hidden width of the two-layer projector."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        return [self.decoder.pretrained] if self.decoder.pretrained else []

    def without_sources(self) -> "VlmConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        decoder = self.decoder.model_copy(update={"pretrained": None})
        return self.model_copy(update={"decoder": decoder})


class CausalLmConfig(Config):
    """A causal language model."""

    decoder: DecoderConfig = Field(default_factory=DecoderConfig)

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        return [self.decoder.pretrained] if self.decoder.pretrained else []

    def without_sources(self) -> "CausalLmConfig":
        """The same model once it is trained."""
        decoder = self.decoder.model_copy(update={"pretrained": None})
        return self.model_copy(update={"decoder": decoder})


class MaskedLmConfig(Config):
    """A BERT-type masked language model: from these sizes, or from a checkpoint."""

    pretrained: str | None = None
    """A local folder or a hub id; then the sizes below are not used."""
    width: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    mlp_width: int = Field(512, ge=8)
    max_positions: int = Field(512, ge=4)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> "MaskedLmConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        return [self.pretrained] if self.pretrained else []

    def without_sources(self) -> "MaskedLmConfig":
        """The same model once it is trained."""
        return self.model_copy(update={"pretrained": None})


class Seq2SeqConfig(Config):
    """A Marian-type encoder-decoder with one embedding for both: from sizes, or a checkpoint."""

    pretrained: str | None = None
    """A local folder or a hub id; then the sizes below are not used."""
    width: int = Field(256, ge=8)
    encoder_layers: int = Field(3, ge=1)
    decoder_layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    mlp_width: int = Field(1024, ge=8)
    max_positions: int = Field(256, ge=4)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> "Seq2SeqConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        return [self.pretrained] if self.pretrained else []

    def without_sources(self) -> "Seq2SeqConfig":
        """The same model once it is trained."""
        return self.model_copy(update={"pretrained": None})


class ClassifierConfig(Config):
    """An encoder with a linear head for each part of the dataset, or for each number."""

    encoder: AnyEncoder | None = None
    """None: the one of the alignment or classifier in the task's `start`."""
    head_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    num_classes: dict[str, int] = Field(default_factory=dict)
    """Part -> classes, for those who want it checked; the data settings decide."""

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        return self.encoder.sources() if self.encoder else []

    def without_sources(self) -> Self:
        """The same model once it is trained."""
        encoder = self.encoder and self.encoder.without_sources()
        return self.model_copy(update={"encoder": encoder})
