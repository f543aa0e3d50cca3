"""The image encoder that the training of a vision-language model starts with."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from plumbline.code_digest import digest_tree
from plumbline.data import images
from plumbline.errors import CheckpointError
from plumbline.files import STATE_DIR, digest_of
from plumbline.kinds.vlm import features as encoded_features
from plumbline.kinds.vlm.features import cached_features
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.loading import transforms
from plumbline.loading.input_config import ImageInputConfig, InputConfig
from plumbline.loading.inputs import left_to_resize
from plumbline.loading.random import keyed_seed
from plumbline.models import vision, vision_checkpoints
from plumbline.models.encoder_config import ImageEncoderConfig
from plumbline.models.encoders import encoder_for
from plumbline.models.processor import settle
from plumbline.models.stored import load_encoder
from plumbline.models.vision import ImageEncoder
from plumbline.training.task import JobContext, Sources

FEATURE_CODE = (vision, vision_checkpoints, encoded_features, transforms, images)
"""The modules that decide what a frozen encoder's features are."""


@dataclass(frozen=True)
class Seen:
    """The image encoder that training starts with."""

    encoder: ImageEncoder
    config: ImageEncoderConfig
    inputs: InputConfig
    digest: str
    """Of what its weights come from."""
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
    return Seen(encoder, part.config, inputs, digest, {"start": digest})


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
    # Of random weights what they are drawn from says what they are.
    drawn = {"seed": context.seed, "encoder": settled.model_dump(mode="json")}
    digest = digest_of(dict(checkpoint.digests) if checkpoint else drawn)
    return Seen(encoder.eval(), settled.without_sources(), inputs, digest)


def frozen_features(seen: Seen, context: JobContext) -> NDArray[np.float32]:
    """What an encoder that stays as it is makes of all images of a dataset, kept on disk.

    Returns:
        [images, tokens, token_width], by image number.
    """
    cache, size = context.cache, seen.config.image_size
    cache.confirm()  # what is made of the images is kept under their digest
    resize = left_to_resize(seen.images, cache)
    key = digest_of(
        {
            "encoder": seen.digest,
            "images": cache.digests["images.bin"],
            "normalize": seen.images.normalize.model_dump(),
            "resize": resize and resize.model_dump(),
            "config": seen.config.model_dump(mode="json"),
            "code": [digest_tree(Path(str(module.__file__))) for module in FEATURE_CODE],
            "libraries": [torch.__version__, torchvision.__version__],
            "device": context.device.type,
            "threads": torch.get_num_threads(),
        }
    )
    root = Path(os.environ.get("DVC_ROOT", "."))
    return cached_features(
        seen.encoder,
        cache.images,
        seen.images.normalize,
        size,
        folder=root / STATE_DIR / "features" / key[:16],
        device=context.device,
        resize=resize,
    )
