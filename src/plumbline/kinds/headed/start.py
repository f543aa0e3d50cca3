"""The encoder of a headed model: a new one, or that of the model that training starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from plumbline.errors import CheckpointError, ConfigError
from plumbline.kinds.headed.rows import HeadedRows
from plumbline.kinds.headed.settings import ClassifierConfig
from plumbline.loading.feed import feed_of
from plumbline.loading.input_config import InputConfig
from plumbline.loading.inputs import Input, build_input
from plumbline.loading.kept_input import KeptInput
from plumbline.models.encoder_config import EncoderConfig, ImageEncoderConfig
from plumbline.models.encoders import Encoder, check_longest, encoder_for
from plumbline.models.processor import settle, settle_as_stored
from plumbline.models.spec import EncoderPart
from plumbline.models.stored import holds_model, load_model
from plumbline.training.frozen_features import Tower, keep_features
from plumbline.training.task import JobContext
from plumbline.training.task_config import check_encoder

RowsT = TypeVar("RowsT", bound=HeadedRows)


@dataclass(frozen=True)
class Start:
    """The encoder that a headed model begins with, and how its inputs reach it."""

    encoder: Encoder
    config: EncoderConfig
    inputs: Input
    input_config: InputConfig
    digests: dict[str, str]
    """Of all that training reads, by name."""

    def keep(
        self, context: JobContext, train: RowsT, validation: RowsT | None
    ) -> tuple[Input, RowsT, RowsT | None]:
        """Inputs and splits as they are, or as a frozen encoder has seen all their values."""
        splits = [train] if validation is None else [train, validation]
        numbers = np.concatenate([rows.numbers for rows in splits])
        size = self.config.image_size if isinstance(self.config, ImageEncoderConfig) else None
        features = keep_features(
            context,
            Tower("encoder", self.encoder, self.config),
            lambda: feed_of(self.inputs, self.input_config, numbers, context.cache, size),
            varying=self.input_config.varying(),
        )
        if features is None:
            return self.inputs, train, validation
        # Lengths are still those of the values, so that batches are cut as without features.
        kept = KeptInput(self.inputs, features)
        return kept, train.fed_by(kept), validation and validation.fed_by(kept)


def start_encoder(
    context: JobContext, model_config: ClassifierConfig, input_config: InputConfig
) -> Start:
    """Build the encoder of a headed model, or take the one that the task starts from.

    Raises:
        ConfigError: the settings name no encoder and the start has none, or one for other inputs.
        CheckpointError: the start is damaged, or its inputs are of another modality.
    """
    config = model_config.encoder
    reads = {"encoder"} if input_config.modality == "text" else set()
    sources = context.open_sources(model_config.sources(), read_ids=reads)
    trained: Encoder | None = None
    digest: dict[str, str] = {}
    if config is None:
        trained, part, digest = _stored_encoder(context.start)
        config = part.config
        if part.inputs.modality != input_config.modality:
            raise CheckpointError(
                f"{context.start}: its encoder takes {part.inputs.modality}, but "
                f"task.inputs.modality is {input_config.modality}"
            )
        input_config = settle_as_stored(input_config, part.inputs)
        try:  # of an encoder that the settings name they have been checked
            check_encoder(input_config, config, "encoder")
        except ValueError as error:
            raise ConfigError(f"{context.start}: {error}") from None
    checkpoint = sources.checkpoints.get("encoder")
    config, input_config = settle(config, input_config, checkpoint, context.cache)
    size = config.image_size if isinstance(config, ImageEncoderConfig) else None
    inputs = build_input(
        input_config, context.cache, image_size=size, cache_bytes=context.cache_bytes
    )
    channels = getattr(inputs, "channels", None)
    if trained is None:
        origin = sources.origins.get("encoder")
        trained = encoder_for(config, channels, context.cache.facts["vocab_size"], origin)
        check_longest(trained, input_config.longest(), f"task.inputs.{config.length_key}")
    # Its first layer has weights for one number of channels.
    elif part.channels != channels:
        raise CheckpointError(
            f"{context.start}: its encoder takes {part.channels} channels, but task.inputs give "
            f"{channels}"
        )
    return Start(trained, config, inputs, input_config, {**sources.digests, **digest})


def _stored_encoder(folder: Path) -> tuple[Encoder, EncoderPart, dict[str, str]]:
    if not holds_model(folder):
        raise ConfigError(
            f"model.encoder is null, but the task's start = {folder.as_posix()} holds no model: "
            "set model.encoder, or start from an alignment"
        )
    stored = load_model(folder)
    part = stored.spec.encoder_part()
    if part is None:
        raise CheckpointError(
            f"{folder}: a model of kind {stored.spec.kind} has no encoder to start from"
        )
    # Heads and projections of the model it comes from stay behind.
    encoder = stored.model.get_submodule(part.name)
    assert isinstance(encoder, Encoder)
    # Part of the run's fingerprint: from another start no training is resumed.
    return encoder, part, {f"start/{name}": digest for name, digest in stored.digests.items()}
