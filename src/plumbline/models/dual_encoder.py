"""Two encoders that meet in one space: the model of alignment."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from plumbline.errors import ConfigError
from plumbline.models.config import DualEncoderConfig, TextEncoderConfig
from plumbline.models.vision import build_image_encoder


class TextEncoder(nn.Module):
    """A transformers encoder; pooled is the mean over the tokens that are not padding."""

    def __init__(
        self, config: TextEncoderConfig, vocab_size: int, stored: Path | None = None
    ) -> None:
        """Build from sizes with random weights, or load `config.pretrained`.

        Where `stored` names a folder with the architecture of a trained encoder, that is built.
        """
        super().__init__()
        if stored is not None:
            self.encoder = AutoModel.from_config(AutoConfig.from_pretrained(stored))
        elif config.pretrained:
            try:
                self.encoder = AutoModel.from_pretrained(config.pretrained, dtype=torch.float32)
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                name = config.pretrained
                raise ConfigError(f"text_encoder.pretrained = {name!r}: {reason}") from None
        else:
            self.encoder = BertModel(
                BertConfig(
                    vocab_size=vocab_size,
                    hidden_size=config.width,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    intermediate_size=config.mlp_width,
                    max_position_embeddings=config.max_tokens,
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                    type_vocab_size=1,
                ),
                add_pooling_layer=False,
            )
        self.width = int(self.encoder.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts to [batch, width].

        Args:
            input_ids: [batch, seq], int64.
            attention_mask: [batch, seq], 1 where a token counts; at least one a row.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled


class Embeddings(NamedTuple):
    """Both sides of a batch in the shared space, not yet normalised, and the logits' scale."""

    images: Tensor
    """[batch, embed_dim]."""
    texts: Tensor
    """[texts, embed_dim]."""
    logit_scale: Tensor
    """Scalar: 1 / temperature, bounded above."""
    logit_bias: Tensor
    """Scalar; only the sigmoid loss uses it."""


class DualEncoder(nn.Module):
    """Image encoder and text encoder, each with a linear map into the shared space."""

    def __init__(
        self, config: DualEncoderConfig, vocab_size: int, stored: Path | None = None
    ) -> None:
        """Build with random weights from torch's generator; `stored` as in `TextEncoder`."""
        super().__init__()
        self.config = config
        self.image_encoder = build_image_encoder(config.image_encoder)
        self.text_encoder = TextEncoder(config.text_encoder, vocab_size, stored)
        self.image_projection = nn.Linear(self.image_encoder.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(self.text_encoder.width, config.embed_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.initial_temperature)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self._max_log_scale = math.log(1 / config.min_temperature)

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Map [batch, 3, height, width] to [batch, embed_dim]."""
        embedded: Tensor = self.image_projection(self.image_encoder(pixel_values).pooled)
        return embedded

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map [texts, seq] ids to [texts, embed_dim].

        A frozen encoder is left out of the graph, so that the projection after it still learns.
        """
        pooled = self.text_encoder(input_ids, attention_mask)
        if not any(p.requires_grad for p in self.text_encoder.parameters()):
            pooled = pooled.detach()
        embedded: Tensor = self.text_projection(pooled)
        return embedded

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Embeddings:
        """Embed both sides; shapes as in `embed_images` and `embed_texts`."""
        return Embeddings(
            images=self.embed_images(pixel_values),
            texts=self.embed_texts(input_ids, attention_mask),
            logit_scale=self.log_scale.clamp(max=self._max_log_scale).exp(),
            logit_bias=self.logit_bias,
        )


def unit(x: Tensor, width: int | None = None) -> Tensor:
    """Cut the last dimension to `width` and scale to length 1, as Matryoshka embeddings need."""
    return functional.normalize(x if width is None else x[..., :width], dim=-1)
