"""Settings of the projectors, from image tokens to a decoder's width. No torch here."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.registry import OneOf, Registry
from plumbline.weights.composite import COMPOSITES
from plumbline.weights.declared import read_declared


class ProjectorConfig(Config):
    """Base of the projectors' settings; a subclass has a `name` of its own that tells it apart."""

    builder: ClassVar[str]
    """`module:callable` that makes it: see `plumbline.models.projectors.build_projector`."""

    def source(self) -> str | None:
        """The checkpoint that it starts from: the name of an entry of `weights`."""
        return None

    def without_sources(self) -> Self:
        """The same projector once it is trained."""
        return self

    def settle(self, folder: Path) -> Self:
        """Put in what settings leave to the checkpoint of a folder.

        Raises:
            ConfigError: it has no such projector, or the settings say something else of it.
        """
        return self

    def count(self, tokens: int) -> int:
        """How many tokens a decoder sees of an image of which the encoder gives `tokens`.

        Raises:
            ConfigError: of so many it can make none.
        """
        return tokens


class MlpConfig(ProjectorConfig):
    """Two layers behind a norm; where each token lies in the image is learned."""

    builder: ClassVar[str] = "plumbline.models.projectors:Mlp"
    name: Literal["mlp"]
    width: int = Field(256, ge=8)
    """Of what lies between its two layers."""


class _Whole(BaseModel):
    """config.json of a whole vision-language model."""

    model_config = ConfigDict(extra="ignore")

    model_type: str
    scale_factor: int | None = Field(None, ge=1)


class PixelShuffleConfig(ProjectorConfig):
    """Squares of neighbouring tokens side by side, then one linear map: fewer and wider tokens."""

    builder: ClassVar[str] = "plumbline.models.projectors:PixelShuffle"
    name: Literal["pixel_shuffle"]
    pretrained: str | None = None
    """An entry of `weights`: a whole vision-language model of type Idefics3 or SmolVLM."""
    scale: int = Field(0, ge=0)
    """Side of a square, in tokens; 0: that of the checkpoint."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> "PixelShuffleConfig":
        # Of a trained one the scale is stored, and the checkpoint is not.
        if self.scale == 0 and self.pretrained is None:
            raise ValueError("scale 0 is that of the checkpoint, and pretrained is null: set one")
        return self

    @override
    def source(self) -> str | None:
        return self.pretrained

    @override
    def without_sources(self) -> Self:
        return self.model_copy(update={"pretrained": None})

    @override
    def settle(self, folder: Path) -> Self:
        whole = read_declared(_Whole, folder / "config.json")
        if whole.model_type not in COMPOSITES or whole.scale_factor is None:
            raise ConfigError(
                f"{folder}: a model of type {whole.model_type}; model.projector.pretrained is for "
                f"whole models of type {', '.join(COMPOSITES)}"
            )
        if self.scale not in (0, whole.scale_factor):
            raise ConfigError(
                f"model.projector.scale = {self.scale}, and the projector of {folder} has "
                f"{whole.scale_factor}: set it to that, or to 0"
            )
        return self.model_copy(update={"scale": whole.scale_factor})

    @override
    def count(self, tokens: int) -> int:
        side = round(tokens**0.5)
        if side**2 != tokens or side % self.scale:
            raise ConfigError(
                f"model.projector.scale = {self.scale}: the encoder gives {tokens} tokens of an "
                f"image, which are not rows and columns of {self.scale} x {self.scale}; choose "
                "another scale, image_size or encoder"
            )
        return tokens // self.scale**2


PROJECTORS: Registry[type[ProjectorConfig]] = Registry("projector")
PROJECTORS.register("mlp", MlpConfig)
PROJECTORS.register("pixel_shuffle", PixelShuffleConfig)

AnyProjector = Annotated[ProjectorConfig, OneOf(PROJECTORS, "name")]
