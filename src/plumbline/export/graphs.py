"""The two parts that a vision-language model is exported as, with tensors alone at their doors.

Both are traced once, for any batch, any length and any past: shapes are only ever read from the
tensors, never compared.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from plumbline.models.vlm import Vlm


class VisionGraph(nn.Module):
    """Image encoder and projector."""

    def __init__(self, model: Vlm) -> None:
        super().__init__()
        self.image_encoder, self.projector = model.image_encoder, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map [batch, 3, height, width] to [batch, image_tokens, width], float32."""
        embeds: Tensor = self.projector(self.image_encoder(pixel_values).tokens)
        return embeds


class DecoderGraph(nn.Module):
    """One graph for the prompt and for every token after it."""

    def __init__(self, model: Vlm) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, image_embeds: Tensor, input_ids: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See new positions after those of the cache; positions count on from the past.

        Args:
            image_embeds: [batch, images, width], before the text; `images` is 0 after the prompt.
            input_ids: [batch, seq], int64.
            past_keys: [layers, batch, kv_heads, past, head_dim]; `past` may be 0.
            past_values: as `past_keys`.

        Returns:
            Logits [batch, vocab] of the last position, and keys and values with the new positions.
        """
        text = self.decoder.get_input_embeddings()(input_ids)
        inputs = torch.cat([image_embeds, text], dim=1)
        batch, new, past = inputs.shape[0], inputs.shape[1], past_keys.shape[3]
        positions = torch.arange(past, past + new)
        # An explicit mask: a model's own would look at the lengths while it is traced.
        mask = torch.arange(past + new)[None, :] <= positions[:, None]
        cache = DynamicCache(zip(past_keys.unbind(0), past_values.unbind(0), strict=True))
        hidden = self.decoder.model(
            inputs_embeds=inputs,
            attention_mask=mask[None, None].expand(batch, 1, new, past + new),
            position_ids=positions[None].expand(batch, new),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        layers: list[Any] = cache.layers
        keys = torch.stack([layer.keys for layer in layers])
        values = torch.stack([layer.values for layer in layers])
        return self.decoder.lm_head(hidden[:, -1]), keys, values


@dataclass(frozen=True)
class DecoderSizes:
    """What a user of the decoder graph must know to feed it."""

    width: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    image_tokens: int


def decoder_sizes(model: Vlm) -> DecoderSizes:
    """Read the sizes of a model from one pass over one token."""
    embedding = model.decoder.get_input_embeddings()
    with torch.no_grad():
        out = model.decoder.model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
    layers = out.past_key_values.layers
    _, kv_heads, _, head_dim = layers[0].keys.shape
    return DecoderSizes(
        width=embedding.embedding_dim,
        layers=len(layers),
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=embedding.num_embeddings,
        image_tokens=model.image_encoder.tokens,
    )


@dataclass(frozen=True)
class GraphSpec:
    """A module to export, with example inputs and names for what they hold."""

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    """Input -> dimension -> name, where the length may differ from call to call."""
    outputs: list[str]


def vision_spec(model: Vlm, image_size: int) -> GraphSpec:
    """The vision graph; examples are of length 2 or more, since 0 and 1 would be taken as fixed."""
    pixels = torch.linspace(-2, 2, 2 * 3 * image_size**2).view(2, 3, image_size, image_size)
    return GraphSpec(
        VisionGraph(model).eval(),
        {"pixel_values": pixels},
        {"pixel_values": {0: "batch"}},
        ["image_embeds"],
    )


def decoder_spec(model: Vlm, sizes: DecoderSizes) -> GraphSpec:
    """The decoder graph, with example inputs."""
    past = torch.linspace(-1, 1, sizes.layers * 2 * sizes.kv_heads * 5 * sizes.head_dim)
    past = past.view(sizes.layers, 2, sizes.kv_heads, 5, sizes.head_dim)
    inputs = {
        "image_embeds": torch.linspace(-1, 1, 2 * 3 * sizes.width).view(2, 3, sizes.width),
        "input_ids": torch.arange(8).view(2, 4) % sizes.vocab_size,
        "past_keys": past,
        "past_values": past.clone(),
    }
    dynamic = {
        "image_embeds": {0: "batch", 1: "images"},
        "input_ids": {0: "batch", 1: "seq"},
        "past_keys": {1: "batch", 3: "past"},
        "past_values": {1: "batch", 3: "past"},
    }
    outputs = ["logits", "present_keys", "present_values"]
    return GraphSpec(DecoderGraph(model).eval(), inputs, dynamic, outputs)
