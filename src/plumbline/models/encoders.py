"""What encoders of images, sequences and text have in common."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import ConfigError
from plumbline.loading.kept_features import KEPT, widen
from plumbline.models.encoder_config import EncoderConfig
from plumbline.registry import load_attribute

if TYPE_CHECKING:
    from plumbline.models.pretrained import Architecture, Origin


class Encoded(NamedTuple):
    """What an encoder makes of a batch."""

    tokens: Tensor
    """[batch, tokens, token_width], float; zero where `mask` is false."""
    pooled: Tensor
    """[batch, width]; with pooling none and no flattening [batch, tokens, width]."""
    mask: Tensor | None = None
    """[batch, tokens] bool, true where a token counts; None: everywhere."""


def raw_texts(texts: Sequence[str]) -> Batch:
    """A batch of texts as they are."""
    return {"texts": list(texts)}


class Encoder(nn.Module):
    """Base of the encoders: called with a batch's inputs by name, they give `Encoded`.

    Which inputs that are, `plumbline.loading.inputs` says; each encoder takes those that it needs
    and leaves the others.
    """

    width: int
    """Of the pooled vector."""
    token_width: int
    longest: int | None = None
    """Most tokens of an input, where a checkpoint says it."""
    architecture: "Architecture | None" = None
    """Of one that came from a checkpoint, or was built like it."""

    def architectures(self, name: str) -> "dict[str, Architecture]":
        """What a model stores beside its weights, whose encoder it is under a name."""
        return {name: self.architecture} if self.architecture else {}

    def reader(self) -> Callable[[Sequence[str]], Batch]:
        """What makes the inputs of one that takes strings; it holds no weights, for loaders."""
        return raw_texts


def encode(encoder: Encoder, inputs: Batch) -> Encoded:
    """What an encoder makes of a batch, or what it has made of it before, being frozen.

    Args:
        encoder: of whatever modality.
        inputs: its arguments by name, or `kept` [batch, width], the pooled vectors.
    """
    if KEPT not in inputs:
        encoded: Encoded = encoder(**inputs)
        return encoded
    pooled = widen(inputs[KEPT])
    return Encoded(pooled.unsqueeze(1), pooled)


def build_encoder(config: EncoderConfig, **context: object) -> Encoder:
    """Make the encoder of some settings, with random weights from torch's global generator.

    Args:
        config: its class names the callable that builds it.
        context: what that callable takes beside the settings, such as `vocab_size` for text or
            `channels` for sequences.
    """
    encoder: Encoder = load_attribute(config.builder)(config, **context)
    return encoder


def encoder_for(
    config: EncoderConfig,
    channels: int | None,
    vocab_size: int | None,
    origin: "Origin | None" = None,
) -> Encoder:
    """Build an encoder of whatever modality with what its kind needs to know.

    Args:
        config: of the encoder.
        channels: of the steps that it takes.
        vocab_size: number of the token ids that it takes.
        origin: of the checkpoint that it starts from, or of the architecture of one that did.
    """
    known = {"channels": channels, "vocab_size": vocab_size, "origin": origin}
    return build_encoder(config, **{name: known[name] for name in config.needs})


def check_longest(encoder: Encoder, tokens: int | None, setting: str) -> None:
    """Refuse inputs that are longer than an encoder's checkpoint takes.

    Args:
        encoder: of whatever modality.
        tokens: of the longest input, with those that frame it; None: no setting bounds it.
        setting: that bounds it, by two less.

    Raises:
        ConfigError: names the setting.
    """
    if encoder.longest is not None and (tokens is None or tokens > encoder.longest):
        raise ConfigError(
            f"{setting}: with what frames them texts may have {tokens or 'any number of'} tokens, "
            f"and the encoder's checkpoint takes {encoder.longest}: set at most "
            f"{encoder.longest - 2}"
        )


def pool(tokens: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce [batch, tokens, width] over the tokens that count to [batch, width].

    Args:
        tokens: of any float dtype.
        mask: [batch, tokens] bool, at least one true a row.
        pooling: mean, max, first or last.
    """
    counted = mask.unsqueeze(-1)
    if pooling == "mean":
        return (tokens * counted).sum(dim=1) / counted.sum(dim=1).to(tokens.dtype)
    if pooling == "max":
        # Below any value, so that padding never is the largest.
        return tokens.masked_fill(~counted, float("-inf")).amax(dim=1)
    if pooling == "first":
        return tokens[:, 0]
    if pooling == "last":
        # argmax gives the first of equal values: of the flipped row, the last that counts.
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
        return tokens[torch.arange(tokens.shape[0], device=tokens.device), last]
    raise ValueError(f"pooling {pooling!r} does not reduce; it is mean, max, first or last")
