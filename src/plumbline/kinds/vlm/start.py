"""The image encoder that the training of a vision-language model starts with."""

from dataclasses import dataclass, field

import torch

from plumbline.errors import CheckpointError
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.loading.input_config import ImageInputConfig, InputConfig
from plumbline.loading.random import keyed_seed
from plumbline.models.encoder_config import ImageEncoderConfig
from plumbline.models.encoders import encoder_for
from plumbline.models.processor import settle
from plumbline.models.stored import load_encoder
from plumbline.models.vision import ImageEncoder
from plumbline.training.task import JobContext, Sources


@dataclass(frozen=True)
class Seen:
    """The image encoder that training starts with."""

    encoder: ImageEncoder
    config: ImageEncoderConfig
    inputs: InputConfig
    read: dict[str, str] = field(default_factory=dict)
    """Digest of what is read beside checkpoints, by name."""

    @property
    def images(self) -> ImageInputConfig:
        """How they reach it."""
        assert isinstance(self.inputs, ImageInputConfig), "it sees images"
        return self.inputs


def first_encoder(
    context: JobContext, model: VlmConfig, config: VlmTaskConfig, sources: Sources
) -> Seen:
    """The encoder that the settings name, or that of the alignment in the task's start.

    Raises:
        CheckpointError: the start holds no aligned image encoder, or a file has changed.
        ConfigError: its checkpoint cannot be loaded.
    """
    if model.image_encoder is None:
        return _open_start(context)
    return _make_encoder(context, model.image_encoder, config, sources)


def _open_start(context: JobContext) -> Seen:
    encoder, part, digest = load_encoder(context.start)
    if not (isinstance(encoder, ImageEncoder) and isinstance(part.config, ImageEncoderConfig)):
        raise CheckpointError(f"{context.start}: its encoder does not see images")
    _, inputs = settle(part.config, part.inputs, None, context.cache)
    return Seen(encoder, part.config, inputs, {"start": digest})


def _make_encoder(
    context: JobContext, chosen: ImageEncoderConfig, config: VlmTaskConfig, sources: Sources
) -> Seen:
    assert config.inputs is not None, "the settings see to it"
    checkpoint = sources.checkpoints.get("image_encoder")
    settled, inputs = settle(chosen.for_tokens(), config.inputs, checkpoint, context.cache)
    torch.manual_seed(keyed_seed(context.seed, "image_encoder"))
    encoder = encoder_for(settled, None, None, sources.origins.get("image_encoder"))
    assert isinstance(encoder, ImageEncoder)
    assert isinstance(settled, ImageEncoderConfig)
    return Seen(encoder.eval(), settled.without_sources(), inputs)
