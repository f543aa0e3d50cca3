"""Two encoders that meet in one space: the model of alignment."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from plumbline.batch import Batch
from plumbline.kinds.alignment.settings import DualEncoderConfig
from plumbline.loading.input_config import AnyInput
from plumbline.models.encoders import Encoder, encode, encoder_for
from plumbline.models.pretrained import NO_ORIGINS, Architecture, Origins
from plumbline.models.spec import EncoderPart, ModelSpec
from plumbline.models.stored import Stored, load_as
from plumbline.tokenization.tokenizer import SpecialIds


class Embeddings(NamedTuple):
    """Both sides of a batch in the shared space, not yet normalised, and the logits' scale."""

    media: Tensor
    """[batch, embed_dim], of images or clips."""
    texts: Tensor
    """[texts, embed_dim]."""
    logit_scale: Tensor
    """Scalar: 1 / temperature, bounded above."""
    logit_bias: Tensor
    """Scalar; only the sigmoid loss uses it."""


class DualEncoder(nn.Module):
    """An encoder of images or audio and one of text, each with a linear map into one space."""

    def __init__(
        self,
        config: DualEncoderConfig,
        vocab_size: int,
        channels: int | None = None,
        origins: Origins = NO_ORIGINS,
    ) -> None:
        """Build with random weights from torch's generator.

        Args:
            config: the encoders and their space.
            vocab_size: number of token ids.
            channels: of the steps that an audio encoder takes.
            origins: of the encoders that start from checkpoints.
        """
        super().__init__()
        self.config = config
        # By name: settings are objects that a compiler does not look into.
        self._media, media = config.media
        self.add_module(self._media, encoder_for(media, channels, None, origins.get(self._media)))
        origin = origins.get("text_encoder")
        self.text_encoder = encoder_for(config.text_encoder, None, vocab_size, origin)
        self.media_projection = nn.Linear(self.media_encoder.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(self.text_encoder.width, config.embed_dim, bias=False)
        # The logarithm learns, so that the scale stays positive and a step changes it by a factor.
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.initial_temperature)))
        # Nearly all pairs of a batch do not fit: the sigmoid loss starts from that, as SigLIP does.
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self._max_log_scale = math.log(1 / config.min_temperature)

    @property
    def media_encoder(self) -> Encoder:
        """The encoder of the side that is not text."""
        encoder: Encoder = getattr(self, self._media)
        return encoder

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """What must be stored beside the weights of parts that came from a checkpoint."""
        return {
            **self.media_encoder.architectures(self._media),
            **self.text_encoder.architectures("text_encoder"),
        }

    def embed_media(self, **inputs: object) -> Tensor:
        """Map the inputs of a batch, such as `pixel_values`, to [batch, embed_dim]."""
        embedded: Tensor = self.media_projection(encode(self.media_encoder, inputs).pooled)
        return embedded

    def embed_texts(self, **inputs: object) -> Tensor:
        """Map `input_ids` and `attention_mask` [texts, seq], or `texts`, to [texts, embed_dim].

        A frozen encoder is left out of the graph, so that the projection after it still learns.
        """
        pooled = encode(self.text_encoder, inputs).pooled
        if pooled.requires_grad and not any(
            p.requires_grad for p in self.text_encoder.parameters()
        ):
            pooled = pooled.detach()
        embedded: Tensor = self.text_projection(pooled)
        return embedded

    def forward(self, media: Batch, texts: Batch) -> Embeddings:
        """Embed both sides; what they hold as in `embed_media` and `embed_texts`."""
        return Embeddings(
            media=self.embed_media(**media),
            texts=self.embed_texts(**texts),
            # Bounded in the forward pass, not by changing the parameter: the optimiser owns it.
            logit_scale=self.log_scale.clamp(max=self._max_log_scale).exp(),
            logit_bias=self.logit_bias,
        )


class DualEncoderSpec(ModelSpec):
    """How to build and feed an aligned pair of encoders."""

    kind: Literal["alignment"] = "alignment"
    model: DualEncoderConfig
    inputs: AnyInput
    """How images or clips reach their encoder."""
    channels: int | None = None
    vocab_size: int
    special_ids: SpecialIds | None
    max_text_tokens: int
    widths: list[int]
    """Embedding widths that were trained as prefixes; empty: the full one alone."""

    @override
    def build(self, origins: Origins) -> DualEncoder:
        return DualEncoder(self.model, self.vocab_size, self.channels, origins)

    @override
    def encoder_part(self) -> EncoderPart:
        name, config = self.model.media
        return EncoderPart(name, config, self.inputs, self.channels, None)


def unit(x: Tensor, width: int | None = None) -> Tensor:
    """Cut [..., embed_dim] to [..., width] and scale to length 1, as Matryoshka embeddings need."""
    return functional.normalize(x if width is None else x[..., :width], dim=-1)


SPEC = DualEncoderSpec

StoredDualEncoder = Stored[DualEncoder, DualEncoderSpec]


def load_dual_encoder(folder: Path) -> StoredDualEncoder:
    """Load an aligned pair of encoders; errors as `load_as`."""
    stored = load_as(folder, DualEncoderSpec)
    assert isinstance(stored.model, DualEncoder)
    return Stored(stored.model, stored.spec, stored.tokenizer, stored.digests)
