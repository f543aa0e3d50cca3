"""What a checkpoint says of the images that it was trained on. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from plumbline.errors import ConfigError
from plumbline.loading.input_config import ImageInputConfig, InputConfig
from plumbline.loading.transform_config import Normalization
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.weights.checkpoint import Checkpoint

_FILES = ("preprocessor_config.json", "processor_config.json", "config.json")


@dataclass(frozen=True)
class Processing:
    """Size and statistics of a checkpoint's images."""

    image_size: int
    mean: list[float]
    std: list[float]


class _Size(BaseModel):
    model_config = ConfigDict(extra="ignore")

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None

    @property
    def side(self) -> int | None:
        return self.shortest_edge if self.height is None else self.height


class _Transformers(BaseModel):
    """preprocessor_config.json, as transformers writes it."""

    model_config = ConfigDict(extra="ignore")

    size: _Size | int
    crop_size: _Size | int | None = None
    do_center_crop: bool = False
    do_normalize: bool = True
    image_mean: list[float] | None = None
    image_std: list[float] | None = None

    def processing(self) -> Processing | None:
        last = self.crop_size if self.do_center_crop and self.crop_size else self.size
        side = last if isinstance(last, int) else last.side
        if side is None:
            return None
        # Without statistics values stay between 0 and 1.
        mean = self.image_mean if self.do_normalize and self.image_mean else [0.0, 0.0, 0.0]
        std = self.image_std if self.do_normalize and self.image_std else [1.0, 1.0, 1.0]
        return Processing(side, mean, std)


class _TimmInputs(BaseModel):
    model_config = ConfigDict(extra="ignore")

    input_size: list[int]
    """Channels, height and width."""
    mean: list[float]
    std: list[float]


class _Timm(BaseModel):
    """config.json, as timm writes it."""

    model_config = ConfigDict(extra="ignore")

    pretrained_cfg: _TimmInputs

    def processing(self) -> Processing | None:
        inputs = self.pretrained_cfg
        return Processing(inputs.input_size[-1], inputs.mean, inputs.std)


class _Joint(BaseModel):
    """processor_config.json, where a processor of images and texts holds that of images."""

    model_config = ConfigDict(extra="ignore")

    image_processor: _Transformers

    def processing(self) -> Processing | None:
        return self.image_processor.processing()


def read_processor(folder: Path) -> Processing:
    """Read size and statistics of a checkpoint's images.

    Raises:
        ConfigError: none of its files says them.
    """
    for name in _FILES:
        file = folder / name
        for schema in (_Transformers, _Joint, _Timm) if file.is_file() else ():
            try:
                found = schema.model_validate_json(file.read_bytes()).processing()
            except ValidationError:
                continue
            if found is not None:
                return found
    raise ConfigError(
        f"{folder}: none of {', '.join(_FILES)} says how images are prepared: set image_size and "
        "task.inputs.normalize"
    )


def settle(
    encoder: EncoderConfig, inputs: InputConfig, checkpoint: Checkpoint | None
) -> tuple[EncoderConfig, InputConfig]:
    """Put in what settings leave to the checkpoint of an encoder.

    Args:
        encoder: its size of images may be 0.
        inputs: the preset of their statistics may be `checkpoint`.
        checkpoint: None where the encoder starts from random weights.

    Raises:
        ConfigError: there is no checkpoint, or it says nothing of images.
    """
    if not (isinstance(encoder, ImageEncoderConfig) and isinstance(inputs, ImageInputConfig)):
        return encoder, inputs
    open_size, open_statistics = encoder.image_size == 0, inputs.normalize.preset == "checkpoint"
    if not (open_size or open_statistics):
        return encoder, inputs
    if checkpoint is None:
        raise ConfigError(
            "image_size 0 and task.inputs.normalize.preset checkpoint are what the encoder's "
            "checkpoint says, and it starts from none: set pretrained, or both"
        )
    said = read_processor(checkpoint.path)
    if open_size:
        encoder = encoder.model_copy(update={"image_size": said.image_size})
    if open_statistics:
        normalize = Normalization(preset=None, mean=said.mean, std=said.std)
        inputs = inputs.model_copy(update={"normalize": normalize})
    return encoder, inputs
