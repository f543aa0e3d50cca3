"""How the inputs of a sample reach the model, by modality; no torch here.

What is stored with a model is what training used, so that evaluation and export do the same.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from plumbline.config import Config
from plumbline.loading.audio_transform_config import AudioAugmentConfig, AudioTransformConfig
from plumbline.loading.transform_config import AugmentConfig, ImageTransformConfig
from plumbline.registry import OneOf, Registry


class InputConfig(Config):
    """Base of the inputs' settings; a subclass has a `modality` of its own."""

    builder: ClassVar[str]
    """`module:class` of the `plumbline.loading.inputs.Input`."""
    modality: str
    """Which input it is; the settings beside it are those of this one."""

    @property
    def source(self) -> str:
        """The column that the input comes from."""
        return self.modality

    def varying(self) -> str | None:
        """Why an input is another one in every epoch of a training; None: it is the same."""
        return f"inputs of modality {self.modality} do not say that they stay the same"

    def longest(self) -> int | None:
        """Longest input in steps or tokens, as the settings cut it; None: they do not."""
        return None

    def shortest(self) -> int:
        """Steps or tokens that an input has at least."""
        return 1


class ImageInputConfig(InputConfig, ImageTransformConfig):
    """Images: normalised, and augmented in training."""

    builder: ClassVar[str] = "plumbline.loading.inputs:ImageInput"
    modality: Literal["image"]

    @override
    def varying(self) -> str | None:
        return None if self.augment == AugmentConfig() else "task.inputs.augment changes images"


class AudioInputConfig(InputConfig, AudioTransformConfig):
    """Clips: as log-mel spectrograms or waveforms, augmented in training."""

    builder: ClassVar[str] = "plumbline.loading.inputs:AudioInput"
    modality: Literal["audio"]

    @override
    def varying(self) -> str | None:
        return None if self.augment == AudioAugmentConfig() else "task.inputs.augment changes clips"

    @override
    def longest(self) -> int | None:
        return self.max_steps

    @override
    def shortest(self) -> int:
        return max(1, self.min_steps)


class FeaturesInputConfig(InputConfig):
    """Feature sequences: each channel to mean 0 and deviation 1 over the training split."""

    builder: ClassVar[str] = "plumbline.loading.inputs:FeaturesInput"
    modality: Literal["features"]
    standardize: bool = True
    """Bring each channel to mean 0 and deviation 1; false: as it is."""
    max_steps: int | None = Field(None, ge=1)
    """Longer sequences are cut at their end; None: none is."""

    @override
    def varying(self) -> str | None:
        return None

    @override
    def longest(self) -> int | None:
        return self.max_steps


class TextInputConfig(InputConfig):
    """A text column as token ids between bos and eos."""

    builder: ClassVar[str] = "plumbline.loading.inputs:TextInput"
    modality: Literal["text"]
    column: Literal["text", "caption", "question", "answer", "source", "target"] = "text"
    """The column of the rows that is read."""
    max_tokens: int = Field(126, ge=1)
    """Longer texts are cut; bos and eos come on top."""
    word_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Probability that a token is left out in training."""

    @property
    def source(self) -> str:
        """See `InputConfig`."""
        return self.column

    @override
    def varying(self) -> str | None:
        return "task.inputs.word_dropout leaves words out" if self.word_dropout else None

    @override
    def longest(self) -> int | None:
        return self.max_tokens + 2


INPUTS: Registry[type[InputConfig]] = Registry("modality")
INPUTS.register("image", ImageInputConfig)
INPUTS.register("audio", AudioInputConfig)
INPUTS.register("features", FeaturesInputConfig)
INPUTS.register("text", TextInputConfig)

AnyInput = Annotated[InputConfig, OneOf(INPUTS, "modality")]
