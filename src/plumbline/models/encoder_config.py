"""Settings of the encoders. No torch here: a wrong setting is told before anything heavy loads."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.registry import OneOf, PluginPlace, Registry


class EncoderConfig(Config):
    """Base of the encoders' settings; a subclass has a `name` of its own that tells it apart."""

    builder: ClassVar[str]
    """`module:callable` that makes the module: see `plumbline.models.encoders.build_encoder`."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it takes beside the settings: `channels` of a step, `vocab_size`, or `origin`, where the
    architecture comes from of one with a checkpoint (None: from the settings)."""
    takes: ClassVar[tuple[str, ...] | None] = None
    """Modalities of the inputs that it can be given; None: a plugin's, which knows alone."""
    length_key: ClassVar[str] = "max_tokens"
    """The setting, of inputs as of encoders, that bounds how long a sample is."""

    def longest(self) -> int | None:
        """Longest input in steps or tokens; None: no limit that is known here."""
        return None

    def source(self) -> str | None:
        """The checkpoint that it starts from: the name of an entry of `weights`."""
        return None

    def without_sources(self) -> Self:
        """The same encoder once it is trained."""
        return self


class CheckpointEncoderConfig(EncoderConfig):
    """Base of the encoders' settings that can name a checkpoint."""

    pretrained: str | None = None
    """An entry of `weights`: a folder as its library saves it; for torchvision the file of a state
    dict of the whole classifier, .safetensors or a .pt of weights alone."""

    @override
    def source(self) -> str | None:
        return self.pretrained

    @override
    def without_sources(self) -> Self:
        return self.model_copy(update={"pretrained": None})


class ImageEncoderConfig(EncoderConfig):
    """Base of the image encoders' settings."""

    takes: ClassVar[tuple[str, ...] | None] = ("image",)
    image_size: int = Field(ge=8)
    """Side of the square input, in pixels."""
    channels: Literal[1, 3] = 3
    """Of the input; 1: a network of 3 that sees the one channel three times, weights summed."""

    def for_tokens(self) -> Self:
        """The same where tokens alone are read: nothing need stand for the whole image."""
        return self


class ConvStemLayer(Config):
    """One convolution of the patch embedding, with batch norm and ReLU."""

    channels: int = Field(ge=1)
    """Of its output."""
    stride: int = Field(ge=1)
    """Pixels from one output to the next."""
    kernel: int = Field(3, ge=1)
    """Side of the convolution, in pixels."""


class VitConfig(ImageEncoderConfig):
    """A torchvision `VisionTransformer`, trained from random weights."""

    builder: ClassVar[str] = "plumbline.models.vision:VitEncoder"
    name: Literal["vit"]
    patch_size: int = Field(ge=1)
    """Side of a patch, in pixels, which is one token; image_size must be a multiple of it."""
    width: int = Field(ge=8)
    """Of a token."""
    layers: int = Field(ge=1)
    """Transformer layers."""
    heads: int = Field(ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    mlp_width: int = Field(ge=8)
    """Hidden width of the feed-forward half of a layer."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a value of a layer is left out in training."""
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


class TorchvisionConfig(CheckpointEncoderConfig, ImageEncoderConfig):
    """The trunk of a torchvision classifier, by name; its last feature map gives the tokens."""

    builder: ClassVar[str] = "plumbline.models.vision:TrunkEncoder"
    needs: ClassVar[tuple[str, ...]] = ("origin",)
    name: Literal["torchvision"]
    arch: str
    """Such as resnet18, convnext_tiny, efficientnet_b0, mobilenet_v3_small."""


class CheckpointImageConfig(CheckpointEncoderConfig, ImageEncoderConfig):
    """Base of encoders of other libraries, which start from a checkpoint."""

    needs: ClassVar[tuple[str, ...]] = ("origin",)
    image_size: int = Field(0, ge=0)
    """Side of the square input, in pixels; 0: that of the checkpoint."""


class TransformersImageConfig(CheckpointImageConfig):
    """The image tower of a checkpoint of transformers: SigLIP, CLIP, DINOv2 and v3, ViT, ..."""

    builder: ClassVar[str] = "plumbline.models.vision_checkpoints:TransformersImageEncoder"
    name: Literal["transformers"]
    feature_layer: int = -1
    """Layer whose tokens are given to a decoder; counted from the end, or from 0, the patches."""
    pooling: Literal["pooler", "mean", "first"] = "pooler"
    """What stands for the whole image: the checkpoint's own pooling, the mean of its tokens, or the
    first token, which in ViT types is the class token."""

    @override
    def for_tokens(self) -> Self:
        return self.model_copy(update={"pooling": "mean"})


class TimmConfig(CheckpointImageConfig):
    """A network of timm by name, with its own pooling."""

    builder: ClassVar[str] = "plumbline.models.vision_checkpoints:TimmEncoder"
    name: Literal["timm"]
    arch: str
    """Such as vit_base_patch16_siglip_224, convnext_tiny, resnet50."""


class ResnetStage(Config):
    """Residual blocks of one width; the first of them strides."""

    channels: int = Field(ge=1)
    """Of its blocks."""
    blocks: int = Field(1, ge=1)
    """Residual blocks, of two convolutions each."""
    stride: int = Field(2, ge=1)
    """Of the first block: 2 halves both sides."""


class ResnetConfig(ImageEncoderConfig):
    """Residual blocks of torchvision in any number and width, for small images."""

    builder: ClassVar[str] = "plumbline.models.vision:ResnetEncoder"
    name: Literal["resnet"]
    stem_channels: int = Field(32, ge=1)
    """Of the convolution in front of the stages."""
    stem_stride: int = Field(1, ge=1)
    """Of the convolution in front of the stages."""
    stages: list[ResnetStage] = Field(min_length=1)
    """Groups of blocks, one behind the other; the last one's channels are the width."""
    norm: Literal["batch", "group"] = "batch"
    """`batch` learns faster; with `group` a sample does not depend on its batch in training."""

    @model_validator(mode="after")
    def _leaves_pixels(self) -> "ResnetConfig":
        side = -(-self.image_size // self.stem_stride)
        for stage in self.stages:
            side = -(-side // stage.stride)
        if side < 1:
            raise ValueError("the strides leave no pixel")
        widths = [self.stem_channels, *(stage.channels for stage in self.stages)]
        if self.norm == "group" and any(width % 8 for width in widths):
            raise ValueError("norm group needs channels in multiples of 8")
        return self


Pooling = Literal["mean", "max", "last", "none"]


class ConvLayer(Config):
    """One convolution over time, with layer norm and GELU."""

    channels: int = Field(ge=1)
    """Of its output."""
    kernel: int = Field(3, ge=1)
    """Steps that it sees; odd."""
    stride: int = Field(1, ge=1)
    """Steps from one output to the next."""

    @model_validator(mode="after")
    def _centred(self) -> "ConvLayer":
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even: a step would have no centre")
        return self


class StepsEncoderConfig(EncoderConfig):
    """Base of the settings of encoders that take steps one after another."""

    needs: ClassVar[tuple[str, ...]] = ("channels",)
    takes: ClassVar[tuple[str, ...] | None] = ("audio", "features")
    length_key: ClassVar[str] = "max_steps"

    @property
    def gives_one_vector(self) -> bool:
        """Whether a sequence becomes one vector, and not one a step."""
        return True


class SequenceEncoderConfig(StepsEncoderConfig):
    """Convolutions, then transformer layers, over steps of spectrograms or feature vectors."""

    builder: ClassVar[str] = "plumbline.models.sequence:SequenceEncoder"
    name: Literal["sequence"]
    convs: list[ConvLayer] = Field(default_factory=list)
    """Convolutions over time, one behind the other; none: the steps as they are."""
    width: int = Field(128, ge=8)
    """Of the steps after the convolutions and a linear map."""
    layers: int = Field(0, ge=0)
    """Transformer layers behind the convolutions; 0: none."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    mlp_width: int = Field(256, ge=8)
    """Hidden width of the feed-forward half of a layer."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a value in front of or in the layers is left out in training."""
    max_steps: int = Field(1024, ge=1)
    """Longest input in steps; `flatten` pads every sequence to it."""
    pooling: Pooling = "mean"
    """How steps become one vector; none: they do not."""
    flatten: bool = False
    """With pooling none: all steps as one vector; without it the head runs on every step."""

    @model_validator(mode="after")
    def _fits(self) -> "SequenceEncoderConfig":
        if self.layers and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @override
    def longest(self) -> int | None:
        return self.max_steps

    @property
    @override
    def gives_one_vector(self) -> bool:
        return self.pooling != "none" or self.flatten

    @property
    def max_tokens(self) -> int:
        """Steps that are left of the longest input after the strides."""
        steps = self.max_steps
        for conv in self.convs:
            steps = -(-steps // conv.stride)
        return steps


class TransformersAudioConfig(CheckpointEncoderConfig, StepsEncoderConfig):
    """The encoder of a checkpoint of transformers for sounds: Whisper, wav2vec 2.0, HuBERT, ..."""

    builder: ClassVar[str] = "plumbline.models.audio_checkpoints:build_audio_encoder"
    needs: ClassVar[tuple[str, ...]] = ("channels", "origin")
    takes: ClassVar[tuple[str, ...] | None] = ("audio",)
    name: Literal["transformers_audio"]
    pooling: Literal["mean", "max", "first", "last"] = "mean"
    """Of the tokens that hear the clip: silence that was put behind it counts for nothing."""


class BaseTextEncoderConfig(EncoderConfig):
    """Base of the text encoders' settings."""

    needs: ClassVar[tuple[str, ...]] = ("vocab_size", "origin")
    takes: ClassVar[tuple[str, ...] | None] = ("text",)
    takes_strings: ClassVar[bool] = False
    """Whether it is given the raw texts and not token ids."""


class TextEncoderConfig(CheckpointEncoderConfig, BaseTextEncoderConfig):
    """A transformers encoder: from these sizes, or from a checkpoint, which has its own."""

    builder: ClassVar[str] = "plumbline.models.text:TextEncoder"
    name: Literal["transformer"]
    width: int = Field(128, ge=8)
    """Of the embeddings and of every layer."""
    layers: int = Field(3, ge=0)
    """Transformer layers; 0: the mean of the embeddings."""
    heads: int = Field(4, ge=1)
    """Attention heads of a layer; width must be a multiple of it."""
    mlp_width: int = Field(512, ge=8)
    """Hidden width of the feed-forward half of a layer."""
    max_tokens: int = Field(64, ge=2)
    """Longest text, in tokens, with what frames it."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a value of a layer or of its attention is left out in training."""
    pooling: Literal["mean", "max", "first", "last", "pooler", "checkpoint"] = "mean"
    """Of the tokens' vectors; first is the token of BERT types for the whole text, pooler what a
    checkpoint's own layers make of them, as CLIP and SigLIP types do, and checkpoint what a folder
    of sentence-transformers declares, with what comes behind."""

    @model_validator(mode="after")
    def _fits(self) -> "TextEncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @override
    def longest(self) -> int | None:
        return None if self.pretrained else self.max_tokens


class NgramEncoderConfig(BaseTextEncoderConfig):
    """The mean of embeddings of hashed character n-grams; reads raw texts, of any language."""

    builder: ClassVar[str] = "plumbline.models.text:NgramEncoder"
    takes: ClassVar[tuple[str, ...] | None] = ()
    takes_strings: ClassVar[bool] = True
    name: Literal["ngrams"]
    width: int = Field(128, ge=8)
    """Of the embeddings."""
    buckets: int = Field(2**15, ge=1)
    """Embeddings, which n-grams share by their hash."""
    shortest: int = Field(2, ge=1)
    """Characters of the shortest n-gram."""
    longest_gram: int = Field(4, ge=1)
    """Characters of the longest n-gram."""

    @model_validator(mode="after")
    def _some_grams(self) -> "NgramEncoderConfig":
        if self.longest_gram < self.shortest:
            raise ValueError(f"longest_gram {self.longest_gram} is below shortest {self.shortest}")
        return self


class ModuleConfig(EncoderConfig):
    """A user's own torch module in `plugins/`, for sounds, features or texts."""

    builder: ClassVar[str] = "plumbline.models.user_module:ModuleEncoder"
    needs: ClassVar[tuple[str, ...]] = ("channels", "vocab_size")
    name: Literal["module"]
    module: PluginPlace
    """The class, as `plugins._net:Net`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the class, beside `channels` and `vocab_size`, which it is given if it takes
    them."""


class ImageModuleConfig(ImageEncoderConfig):
    """A user's own torch module in `plugins/`, for images."""

    builder: ClassVar[str] = "plumbline.models.user_module:ModuleEncoder"
    name: Literal["image_module"]
    module: PluginPlace
    """The class, as `plugins._net:Net`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the class."""


ENCODERS: Registry[type[EncoderConfig]] = Registry("encoder")
ENCODERS.register("vit", VitConfig)
ENCODERS.register("torchvision", TorchvisionConfig)
ENCODERS.register("resnet", ResnetConfig)
ENCODERS.register("transformers", TransformersImageConfig)
ENCODERS.register("timm", TimmConfig)
ENCODERS.register("sequence", SequenceEncoderConfig)
ENCODERS.register("transformers_audio", TransformersAudioConfig)
ENCODERS.register("transformer", TextEncoderConfig)
ENCODERS.register("ngrams", NgramEncoderConfig)
ENCODERS.register("module", ModuleConfig)
ENCODERS.register("image_module", ImageModuleConfig)

AnyEncoder = Annotated[EncoderConfig, OneOf(ENCODERS, "name")]
AnyImageEncoder = Annotated[ImageEncoderConfig, OneOf(ENCODERS, "name")]
AnyStepsEncoder = Annotated[StepsEncoderConfig, OneOf(ENCODERS, "name")]
AnyTextEncoder = Annotated[BaseTextEncoderConfig, OneOf(ENCODERS, "name")]
