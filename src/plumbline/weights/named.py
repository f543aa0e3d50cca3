"""The checkpoints that the settings of a model name."""

from collections.abc import Iterator
from dataclasses import dataclass

from plumbline.config import Config
from plumbline.models.encoder_config import BaseTextEncoderConfig, EncoderConfig
from plumbline.models.projector_config import ProjectorConfig


@dataclass(frozen=True)
class Named:
    """A setting `pretrained` that is not null."""

    key: str
    """Dotted, within the settings of the model."""
    name: str
    """Of the entry of `weights`."""
    reads_ids: bool
    """Whether its part reads token ids."""


def named_checkpoints(model: Config, prefix: str = "") -> Iterator[Named]:
    """Every checkpoint that a part of a model starts from."""
    for field in type(model).model_fields:
        value = getattr(model, field)
        if field == "pretrained" and isinstance(value, str):
            text = isinstance(model, BaseTextEncoderConfig)
            blind = isinstance(model, EncoderConfig | ProjectorConfig)
            yield Named(f"{prefix}{field}", value, text or not blind)
        elif isinstance(value, Config):
            yield from named_checkpoints(value, f"{prefix}{field}.")


def base_of(model: Config, part: str) -> str | None:
    """The checkpoint that a part starts from; None: from random weights, or a model of here."""
    keys = ("pretrained", f"{part}.pretrained")
    return next((found.name for found in named_checkpoints(model) if found.key in keys), None)
