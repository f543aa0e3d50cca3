"""Settings of the models. No torch here: a wrong setting is told before anything heavy loads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from plumbline.config import Config


class ConvStemLayer(Config):
    """One convolution of the patch embedding, with batch norm and ReLU."""

    channels: int = Field(ge=1)
    stride: int = Field(ge=1)
    kernel: int = Field(3, ge=1)


class VitConfig(Config):
    """A torchvision `VisionTransformer`, trained from random weights."""

    name: Literal["vit"]
    image_size: int = Field(ge=8)
    """Side of the square input, in pixels."""
    patch_size: int = Field(ge=1)
    width: int = Field(ge=8)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_width: int = Field(ge=8)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    conv_stem: list[ConvStemLayer] = Field(default_factory=list)
    """Convolutions in place of the patch projection; their strides multiply to patch_size."""
    feature_layers: list[int] = Field([-1], min_length=1)
    """Layers whose tokens are given to a decoder, concatenated; 0 is the patch embedding."""

    @model_validator(mode="after")
    def _fits(self) -> "VitConfig":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        reach = self.layers + 1
        if any(not -reach <= layer < reach for layer in self.feature_layers):
            raise ValueError(f"feature_layers {self.feature_layers}: layers are 0 to {self.layers}")
        stride = 1
        for layer in self.conv_stem:
            stride *= layer.stride
        if self.conv_stem and stride != self.patch_size:
            raise ValueError(
                f"conv_stem strides multiply to {stride}, patch_size {self.patch_size}"
            )
        return self


class TorchvisionConfig(Config):
    """The trunk of a torchvision classifier, by name; its last feature map gives the tokens."""

    name: Literal["torchvision"]
    arch: str
    """Such as resnet18, convnext_tiny, efficientnet_b0, mobilenet_v3_small."""
    image_size: int = Field(ge=8)
    weights: str | None = None
    """A state dict (.safetensors or weights-only .pt) for the trunk's classifier."""


ImageEncoderConfig = Annotated[VitConfig | TorchvisionConfig, Field(discriminator="name")]


class TextEncoderConfig(Config):
    """A transformers encoder with mean pooling: from these sizes, or from a checkpoint."""

    pretrained: str | None = None
    """A local folder or a hub id; then the sizes below are not used."""
    width: int = Field(128, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    mlp_width: int = Field(512, ge=8)
    max_tokens: int = Field(64, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> "TextEncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class DualEncoderConfig(Config):
    """Two encoders and the space that they share."""

    image_encoder: ImageEncoderConfig
    text_encoder: TextEncoderConfig
    embed_dim: int = Field(128, ge=2)
    initial_temperature: float = Field(0.07, gt=0.0)
    min_temperature: float = Field(0.01, gt=0.0)

    def sources(self) -> list[str]:
        """The checkpoints that parts start from."""
        encoder = self.image_encoder
        weights = encoder.weights if isinstance(encoder, TorchvisionConfig) else None
        return [name for name in (weights, self.text_encoder.pretrained) if name]

    def without_sources(self) -> "DualEncoderConfig":
        """The same model once it is trained: where its parts came from no longer matters."""
        encoder = self.image_encoder
        if isinstance(encoder, TorchvisionConfig):
            encoder = encoder.model_copy(update={"weights": None})
        text = self.text_encoder.model_copy(update={"pretrained": None})
        return self.model_copy(update={"image_encoder": encoder, "text_encoder": text})


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
