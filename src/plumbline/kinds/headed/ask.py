"""Ask a stored model with heads."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from plumbline import paths
from plumbline.asking import Answer, Options, read_bytes, read_image, say_cut_tokens
from plumbline.data.arrays import decode_features
from plumbline.data.undecodable import UndecodableError
from plumbline.errors import ConfigError, DataError
from plumbline.loading.input_config import (
    AudioInputConfig,
    FeaturesInputConfig,
    ImageInputConfig,
    InputConfig,
    TextInputConfig,
)
from plumbline.models.encoder_config import (
    BaseTextEncoderConfig,
    EncoderConfig,
    ImageEncoderConfig,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.batch import Batch
    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored
    from plumbline.tokenization.tokenizer import SpecialIds

Floats = NDArray[np.float32]


class EncoderSettings(Protocol):
    """The settings of a model that has an encoder."""

    @property
    def encoder(self) -> EncoderConfig | None:
        """None is for settings alone: a stored model says which one it has."""


@runtime_checkable
class FedSpec(Protocol):
    """What is read of the spec of a model that is fed by an input; a plugin's may be another."""

    @property
    def inputs(self) -> InputConfig:
        """How inputs reach the model."""

    @property
    def channels(self) -> int | None:
        """Of the steps that the encoder takes."""

    @property
    def model(self) -> EncoderSettings:
        """What it was built from."""


@runtime_checkable
class TextSpec(Protocol):
    """What is read beside it where the input is a text."""

    @property
    def special_ids(self) -> "SpecialIds | None":
        """None: the encoder is given raw texts."""


def headed_inputs(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, folder: Path
) -> "tuple[Batch, Answer]":
    """The inputs of a classifier or regressor, as evaluation makes them of the cache.

    Returns:
        The inputs, and what the answer says of those that were cut.

    Raises:
        ConfigError: the file cannot be read, or the features' statistics are not here.
        DataError: it is not what the model takes.
    """
    import torch

    spec = stored.spec
    assert isinstance(spec, FedSpec)
    config, encoder = spec.inputs, spec.model.encoder
    if isinstance(config, ImageInputConfig):
        from plumbline.loading.transforms import normalize_images

        assert isinstance(encoder, ImageEncoderConfig)
        pixels = read_image(options.image, encoder.image_size, config)
        # [1, channels, size, size]: encoders take channels first
        stacked = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        return {"pixel_values": normalize_images(stacked, config.normalize)}, {}
    if isinstance(config, TextInputConfig):
        from plumbline.loading.text_batches import collate_texts

        if isinstance(encoder, BaseTextEncoderConfig) and encoder.takes_strings:
            return {"texts": [options.text]}, {}
        assert isinstance(spec, TextSpec)
        assert spec.special_ids is not None, "a model that is given token ids has them"
        ids = stored.text.encode(options.text, add_special_tokens=False).ids
        batch = collate_texts([np.array(ids, np.int64)], spec.special_ids, config.max_tokens)
        return batch, say_cut_tokens(len(ids) - config.max_tokens)
    path: Path = getattr(options, config.modality)
    try:
        if isinstance(config, AudioInputConfig):
            return _clip_inputs(read_bytes(path), config)
        values = decode_features(read_bytes(path))
    except UndecodableError as error:
        raise DataError(f"{path}: no {config.modality} that can be decoded ({error})") from None
    assert isinstance(config, FeaturesInputConfig)
    if values.shape[1] != spec.channels:
        raise DataError(f"{path}: {values.shape[1]} channels, expected {spec.channels}")
    steps = torch.from_numpy(_standardize(values[: config.max_steps], config, folder))[None]
    cut = {"cut_steps": len(values) - steps.shape[1]} if len(values) > steps.shape[1] else {}
    return {"steps": steps, "mask": torch.ones(steps.shape[:2], dtype=torch.bool)}, cut


def _clip_inputs(data: bytes, config: AudioInputConfig) -> "tuple[Batch, Answer]":
    """The same of one clip, all of whose samples count: steps [1, steps, channels], and mask."""
    import torch

    from plumbline.data.audio import decode_mono
    from plumbline.loading.audio_transforms import audio_steps, fill_with_silence

    samples = torch.from_numpy(decode_mono(data, config.sample_rate))
    steps, mask = audio_steps(samples[None], torch.tensor([len(samples)]), config)
    steps, mask = fill_with_silence(steps, mask, config)
    there = -(-len(samples) // config.samples_per_step)
    most = config.max_steps or there
    return {"steps": steps, "mask": mask}, {"cut_steps": there - most} if there > most else {}


def _standardize(values: Floats, config: FeaturesInputConfig, folder: Path) -> Floats:
    """Bring the channels to the scale of training, whose figures stand in the cache."""
    from plumbline.files import read_json

    if not config.standardize:
        return np.array(values)
    # They belong to the dataset, so no model stores them.
    place = paths.cache(str(read_json(folder / "config.json").get("data"))) / "cache.json"
    if not place.is_file():
        raise ConfigError(f"{place}: missing, it holds the statistics of the features; dvc repro")
    facts = read_json(place)["features"]
    mean = np.array(facts["mean_of_channels"], np.float32)
    # The same floor as in training: a channel that never changes has deviation 0.
    std = np.maximum(np.array(facts["std_of_channels"], np.float32), 1e-6)
    scaled: Floats = ((values - mean) * (1 / std)).astype(np.float32)
    return scaled


def outputs_of(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> tuple[dict[str, Floats], Answer]:
    """The outputs [1, outputs] of every head, and what the answer says of an input that was cut."""
    import torch

    from plumbline.models.device import to_device

    inputs, cut = headed_inputs(stored, options, folder)
    with torch.inference_mode():
        outputs = stored.model(**to_device(inputs, device))
    return {part: values.float().cpu().numpy() for part, values in outputs.items()}, cut
