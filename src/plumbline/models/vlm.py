"""The vision-language model: frozen image encoder, projector, causal decoder."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.errors import ConfigError
from plumbline.models.config import DecoderConfig, VlmConfig
from plumbline.models.vision import ImageEncoder


def build_decoder(
    config: DecoderConfig, vocab_size: int, pad: int, stored: Path | None = None
) -> PreTrainedModel:
    """A Qwen3-type decoder: random weights from these sizes, or a checkpoint.

    Args:
        config: sizes, or the place of a checkpoint.
        vocab_size: number of token ids; a checkpoint's embedding grows to it where it is smaller.
        pad: id of the padding token.
        stored: folder with the architecture of a trained decoder, whose weights come later.
    """
    if stored is not None:
        return cast(
            PreTrainedModel, AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(stored))
        )
    if config.pretrained:
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                config.pretrained, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"decoder.pretrained = {config.pretrained!r}: {reason}") from None
        if model.get_input_embeddings().num_embeddings < vocab_size:
            model.resize_token_embeddings(vocab_size)
        return cast(PreTrainedModel, model)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.width // config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            pad_token_id=pad,
        )
    )


class Projector(nn.Module):
    """Two layers that map image tokens to the width of the decoder, and where each token lies.

    The decoder's rotary positions are relative; a token's own place in the image is learned here.
    """

    def __init__(self, tokens: int, token_width: int, hidden: int, decoder_width: int) -> None:
        """Build with random weights; the norm first, for features of any scale."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(token_width),
            nn.Linear(token_width, hidden),
            nn.GELU(),
            nn.Linear(hidden, decoder_width),
        )
        self.position = nn.Parameter(torch.randn(tokens, decoder_width) * 0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Map [batch, tokens, token_width] to [batch, tokens, decoder_width]."""
        projected: Tensor = self.layers(features) + self.position
        return projected


class Vlm(nn.Module):
    """Answers a prompt about an image: projected image tokens, then text, through the decoder."""

    def __init__(
        self,
        image_encoder: ImageEncoder,
        config: VlmConfig,
        vocab_size: int,
        pad: int,
        stored: Path | None = None,
    ) -> None:
        """Join a given encoder with a new projector and decoder; `stored` as in `build_decoder`."""
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        decoder: Any = build_decoder(config.decoder, vocab_size, pad, stored)
        self.decoder = decoder
        width = int(decoder.get_input_embeddings().embedding_dim)
        self.projector = Projector(
            image_encoder.tokens, image_encoder.token_width, config.projector_width, width
        )

    def embed_image(self, features: Tensor) -> Tensor:
        """Map encoder tokens [batch, image_tokens, token_width] to the decoder's width."""
        projected: Tensor = self.projector(features)
        return projected

    def hidden_states(
        self, image_features: Tensor, input_ids: Tensor, position_ids: Tensor, mask: Tensor
    ) -> Tensor:
        """Run the decoder over image tokens followed by text.

        Args:
            image_features: [batch, image_tokens, token_width], from the image encoder.
            input_ids: [batch, seq], int64.
            position_ids: [batch, image_tokens + seq], int64.
            mask: [batch, 1, image_tokens + seq, image_tokens + seq], true where a position sees
                another.

        Returns:
            [batch, seq, width] for the text positions.
        """
        text = self.decoder.get_input_embeddings()(input_ids)
        image = self.embed_image(image_features).to(text.dtype)
        hidden = self.decoder.model(
            inputs_embeds=torch.cat([image, text], dim=1),
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        states: Tensor = hidden[:, image.shape[1] :]
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., width] to logits [..., vocab]."""
        out: Tensor = self.decoder.lm_head(hidden)
        return out
