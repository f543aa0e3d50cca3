"""What a checkpoint says of the images and sounds that it was trained on."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plumbline.data.resizing import Resize
from plumbline.errors import ConfigError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import AudioInputConfig, ImageInputConfig, InputConfig
from plumbline.loading.transform_config import Normalization
from plumbline.models.audio_processor import settle_audio
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.weights.checkpoint import Checkpoint
from plumbline.weights.declared import first_fault

logger = logging.getLogger(__name__)

_FILES = ("preprocessor_config.json", "processor_config.json", "config.json")


_MOST = 4096
"""Pixels of the longer side beyond which processors of Idefics3 types do something else."""
_FILTERS: tuple[str, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By their numbers in PIL, which processors give."""


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
    longest_edge: int | None = None

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
    do_rescale: bool = True
    rescale_factor: float = Field(1 / 255, gt=0.0, allow_inf_nan=False)
    max_image_size: _Size | None = None
    """Of Idefics3 types: the side of what the encoder takes, whatever the image's own size."""

    def processing(self) -> Processing | None:
        last = self.crop_size if self.do_center_crop and self.crop_size else self.size
        side = last if isinstance(last, int) else last.side
        if self.max_image_size is not None:
            side = self.max_image_size.longest_edge
        if side is None:
            return None
        # Without statistics values stay as they were scaled, between 0 and 1 as a rule.
        mean = self.image_mean if self.do_normalize and self.image_mean else [0.0, 0.0, 0.0]
        std = self.image_std if self.do_normalize and self.image_std else [1.0, 1.0, 1.0]
        # What is said of levels times this factor, of levels / 255.
        factor = 255 * (self.rescale_factor if self.do_rescale else 1.0)
        return Processing(side, [m / factor for m in mean], [s / factor for s in std])


class _TimmInputs(BaseModel):
    model_config = ConfigDict(extra="ignore")

    input_size: tuple[int, int, int]
    """Channels, height and width."""
    mean: list[float]
    std: list[float]
    interpolation: str | None = None
    crop_pct: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    crop_mode: str = "center"


class _Timm(BaseModel):
    """config.json, as timm writes it."""

    model_config = ConfigDict(extra="ignore")

    pretrained_cfg: _TimmInputs

    def processing(self) -> Processing | None:
        inputs = self.pretrained_cfg
        return Processing(inputs.input_size[-1], inputs.mean, inputs.std)

    def resize(self) -> Resize | None:
        """How images are resized for evaluation; None: in a way that `Resize` cannot say."""
        inputs = self.pretrained_cfg
        known = inputs.crop_mode in ("center", "squash") and inputs.interpolation in _FILTERS
        _, height, size = inputs.input_size
        if not known or inputs.crop_pct is None or height != size:
            return None
        edge = math.floor(size / inputs.crop_pct)
        return _resize(inputs.interpolation, inputs.crop_mode == "center", size, edge)


class _Prepared(BaseModel):
    """What a processor of transformers has made of its file, with the defaults of its class."""

    model_config = ConfigDict(extra="ignore")

    do_resize: bool
    size: _Size
    resample: int
    do_center_crop: bool | None = None
    crop_size: _Size | None = None
    max_image_size: _Size | None = None
    do_image_splitting: bool = False

    def resize(self) -> Resize | None:
        """How images are resized; None: in a way that `Resize` cannot say."""
        if self.max_image_size is not None:
            return self._of_a_whole()
        size, cropped = self.size, bool(self.do_center_crop and self.crop_size)
        keep = size.shortest_edge is not None
        last = self.crop_size if self.crop_size and cropped else size
        square = size.longest_edge is None and (cropped if keep else size.height == size.width)
        square = square and last.height == last.width
        if not (self.do_resize and square and 0 <= self.resample < len(_FILTERS)):
            return None
        edge = size.side
        return _resize(_FILTERS[self.resample], keep, last.side, edge)

    def _of_a_whole(self) -> Resize | None:
        """Of Idefics3 types: an image as a whole, as without tiles."""
        longest = self.size.longest_edge
        known = longest is not None and longest <= _MOST and 0 <= self.resample < len(_FILTERS)
        if self.do_resize and not known:
            return None
        said = {"resample": _FILTERS[self.resample]}
        return Resize.model_validate(said | ({"longest_edge": longest} if self.do_resize else {}))


def _resize(
    resample: str | None, keep_ratio: bool, side: int | None, edge: int | None
) -> Resize | None:
    """To an edge of which the middle is kept; None where there would be too little."""
    if not side or not edge or side > edge:
        return None
    said = {"resample": resample, "keep_ratio": keep_ratio, "crop": side / edge}
    return Resize.model_validate(said)


def read_resize(folder: Path) -> Resize:
    """Read how a checkpoint's processor resizes images.

    Raises:
        ConfigError: it says nothing of it, or something that is not followed.
    """
    try:
        found = _Timm.model_validate_json((folder / "config.json").read_bytes()).resize()
    except (OSError, ValidationError):
        found = _of_transformers(folder)
    if found is None:
        raise ConfigError(
            f"{folder}: does not say how images are resized, or in a way that is not followed: set "
            "task.inputs.resize"
        )
    return found


def _of_transformers(folder: Path) -> Resize | None:
    # Only who asks for it waits for its import; the classes know what old files leave out.
    from transformers import AutoImageProcessor

    load: Callable[..., Stated] = AutoImageProcessor.from_pretrained  # without types
    try:
        processor = load(folder, trust_remote_code=False, local_files_only=True)
        found = _Prepared.model_validate(processor.to_dict())
        if found.do_image_splitting:
            logger.warning(
                "%s: its processor cuts an image into tiles beside the whole (do_image_splitting); "
                "here the whole alone is seen: what is small in it is lost",
                folder,
            )
        return found.resize()
    except (OSError, ValueError, ImportError, TypeError, AttributeError, LookupError):
        return None  # a damaged file raises what its values happen to lead to


class Stated(Protocol):
    """What is used of a processor of transformers."""

    def to_dict(self) -> dict[str, object]:
        """Its settings."""


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
    encoder: EncoderConfig,
    inputs: InputConfig,
    checkpoint: Checkpoint | None,
    cache: TrainingCache | None = None,
) -> tuple[EncoderConfig, InputConfig]:
    """Put in what settings leave to the checkpoint of an encoder, or to the cache.

    Args:
        encoder: its size of images may be 0.
        inputs: the preset of their statistics may be `checkpoint`, and so may their resize, or the
            form of sounds.
        checkpoint: None where the encoder starts from random weights.
        cache: that the images come from, which may hold them resized.

    Raises:
        ConfigError: there is no checkpoint, or it says nothing of images or sounds, or the cache
            holds images resized in another way.
    """
    if isinstance(inputs, AudioInputConfig) and inputs.form == "checkpoint":
        if checkpoint is None:
            raise ConfigError(
                "task.inputs.form checkpoint is what the encoder's checkpoint says, and it starts "
                "from none: set pretrained, or another form"
            )
        return encoder, settle_audio(inputs, checkpoint.path)
    if not (isinstance(encoder, ImageEncoderConfig) and isinstance(inputs, ImageInputConfig)):
        return encoder, inputs
    encoder, inputs = _from_checkpoint(encoder, inputs, checkpoint)
    made = cache.image_resize if cache else None
    if cache is None or made is None:
        return encoder, inputs
    side = encoder.image_size
    if inputs.settled not in (None, made) or cache.facts["image_shape"][:2] != [side, side]:
        wanted = inputs.settled or made
        raise ConfigError(
            f"{cache.folder}: images are {cache.facts['image_shape'][:2]} by {_words(made)}, and "
            f"the model takes {[side, side]} by {_words(wanted)}: set tokenize.image_size and "
            "tokenize.image_resize of the dataset to that"
        )
    return encoder, inputs.model_copy(update={"resize": made})


def _words(resize: Resize) -> str:
    return ", ".join(f"{name} {value}" for name, value in resize.model_dump().items())


def _from_checkpoint(
    encoder: ImageEncoderConfig, inputs: ImageInputConfig, checkpoint: Checkpoint | None
) -> tuple[ImageEncoderConfig, ImageInputConfig]:
    """Put in what settings leave to the checkpoint."""
    open_size, open_statistics = encoder.image_size == 0, inputs.normalize.preset == "checkpoint"
    open_resize = inputs.resize == "checkpoint"
    if not (open_size or open_statistics or open_resize):
        return encoder, inputs
    if checkpoint is None:
        raise ConfigError(
            "image_size 0, and checkpoint as preset of task.inputs.normalize or as "
            "task.inputs.resize, are what the encoder's checkpoint says, and it starts from none: "
            "set pretrained, or all of them"
        )
    update: dict[str, object] = {}
    if open_size or open_statistics:
        said = read_processor(checkpoint.path)
        if open_size:
            encoder = encoder.model_copy(update={"image_size": said.image_size})
        if open_statistics:
            update["normalize"] = _normalization(said, checkpoint.path)
    if open_resize:
        update["resize"] = read_resize(checkpoint.path)
    return encoder, inputs.model_copy(update=update)


def _normalization(said: Processing, folder: Path) -> Normalization:
    try:
        return Normalization(preset=None, mean=said.mean, std=said.std)
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: statistics of images that cannot be used: {first_fault(error)}: set "
            "task.inputs.normalize"
        ) from None


def settle_as_stored(inputs: InputConfig, stored: InputConfig) -> InputConfig:
    """Put in what settings leave to the checkpoint, of an encoder that this pipeline trained.

    Args:
        inputs: of a training that starts with it, for the same modality.
        stored: those that it was trained with.
    """
    if isinstance(inputs, AudioInputConfig) and inputs.form == "checkpoint":
        assert isinstance(stored, AudioInputConfig), "of the same modality"
        return stored.model_copy(update={"augment": inputs.augment})
    if not isinstance(inputs, ImageInputConfig):
        return inputs
    assert isinstance(stored, ImageInputConfig), "of the same modality"
    update: dict[str, object] = {}
    if inputs.normalize.preset == "checkpoint":
        update["normalize"] = stored.normalize
    if inputs.resize == "checkpoint":
        update["resize"] = stored.resize
    return inputs.model_copy(update=update)
