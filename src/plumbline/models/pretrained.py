"""Models of transformers that come from a checkpoint, by hub id or local path."""

from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from plumbline.errors import ConfigError


class AutoClass(Protocol):
    """An `AutoModel...` of transformers, whose own methods have no types."""

    def from_config(self, config: PreTrainedConfig, /) -> PreTrainedModel:
        """Build a model of random weights."""
        ...

    def from_pretrained(self, name: str, /, *, dtype: torch.dtype) -> PreTrainedModel:
        """Load a model with its weights."""
        ...


def build_from_checkpoint(
    auto: AutoClass, *, stored: Path | None, pretrained: str | None, setting: str
) -> PreTrainedModel | None:
    """Build what a checkpoint says, in float32; None where the settings describe the model.

    Args:
        auto: the `AutoModel...` class of the kind of model.
        stored: a folder with the architecture of a trained model, whose weights come later.
        pretrained: hub id or local path, with weights.
        setting: the name of `pretrained` in the settings.

    Raises:
        ConfigError: the checkpoint cannot be loaded.
    """
    if stored is not None:
        return auto.from_config(AutoConfig.from_pretrained(stored))
    if not pretrained:
        return None
    try:
        return auto.from_pretrained(pretrained, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{setting} = {pretrained!r}: {reason}") from None
