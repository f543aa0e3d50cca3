"""Settings of the image transforms; no torch here."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.data.resizing import Resize
from plumbline.errors import DataError

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Of OpenAI's CLIP; models that start from its weights have seen no other.
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Channel means and standard deviations of values in 0..1."""


class Normalization(Config):
    """Channel means and standard deviations, by the name of a preset or in figures."""

    preset: Literal["imagenet", "clip", "cifar10", "half", "checkpoint"] | None = "imagenet"
    """`checkpoint`: what the processor of the encoder's checkpoint says."""
    mean: list[float] | None = None
    """Of each channel, of values from 0 to 1; goes with `preset: null`."""
    std: list[Annotated[float, Field(gt=0)]] | None = None
    """Standard deviation of each channel; goes with `preset: null`."""

    @model_validator(mode="after")
    def _one_way(self) -> "Normalization":
        if self.preset is not None and (self.mean is not None or self.std is not None):
            raise ValueError(f"preset {self.preset} and mean, std contradict: set preset to null")
        if self.preset is None and (self.mean is None or self.std is None):
            raise ValueError("without a preset both mean and std are needed")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}")
        return self

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations, one each per channel."""
        if self.preset == "checkpoint":
            return (0.0,) * 3, (1.0,) * 3  # of as many channels; put in when training opens it
        if self.preset is not None:
            return STATISTICS[self.preset]
        return tuple(self.mean or ()), tuple(self.std or ())

    @property
    def channels(self) -> int:
        """Of the images that it normalises."""
        return len(self.statistics[0])

    def check_channels(self, channels: int) -> None:
        """Refuse images of other channels.

        Raises:
            DataError: names both settings.
        """
        if channels != self.channels:
            raise DataError(
                f"images have {channels} channels, the statistics {self.channels}: make "
                "task.inputs.normalize and the dataset's tokenize.image_mode (rgb: 3, gray: 1) "
                "agree"
            )


class AugmentConfig(Config):
    """What training does to an image before it is normalised; off by default."""

    enlarge: int = Field(0, ge=0)
    """Resize to the model's size + this, then crop at random to the size; 32 is customary."""
    padding: int = Field(0, ge=0)
    """Black pixels put around the image before the random crop to the size; 4 for CIFAR."""
    flip: float = Field(0.0, ge=0.0, le=1.0)
    """Probability of a mirror image; wrong for data that speaks of left and right."""
    brightness: float = Field(0.0, ge=0.0, lt=1.0)
    """Pixels are multiplied by a factor drawn from 1 - x to 1 + x."""
    contrast: float = Field(0.0, ge=0.0, lt=1.0)
    """The distance of pixels from the mean gray is multiplied by a factor drawn from 1 - x to 1 +
    x."""
    saturation: float = Field(0.0, ge=0.0, lt=1.0)
    """The distance of pixels from their own gray is multiplied by a factor drawn from 1 - x to
    1 + x."""


class ImageTransformConfig(Config):
    """How images reach the model."""

    normalize: Normalization = Field(default_factory=Normalization)
    """What brings the values of each channel to about mean 0 and deviation 1."""
    resize: Literal["checkpoint"] | Resize | None = None
    """From images as they are; `checkpoint`: as the processor of the encoder's checkpoint does;
    None: cached images that have another size are stretched by a bilinear filter."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """What training does to images."""

    @property
    def settled(self) -> Resize | None:
        """`resize`, once a training has begun: a checkpoint's own has been put in."""
        assert self.resize != "checkpoint", "what a checkpoint says is put in before it is used"
        return self.resize

    @field_validator("normalize")
    @classmethod
    def _colour_or_gray(cls, value: Normalization) -> Normalization:
        if value.channels not in (1, 3):
            raise ValueError(
                f"images have 3 channels, or 1 with tokenize.image_mode gray, the statistics "
                f"{value.channels}"
            )
        return value

    @model_validator(mode="after")
    def _gray_has_no_saturation(self) -> "ImageTransformConfig":
        if self.normalize.channels == 1 and self.augment.saturation:
            raise ValueError(
                f"augment.saturation is {self.augment.saturation}, but normalize is for images of "
                "one channel, which have none: set it to 0"
            )
        return self
