"""What is exported: modules with tensors alone at their doors.

Each is traced once, for any batch and any length: shapes are only ever read from the tensors,
never compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from plumbline.models.decoder import CausalDecoder


@dataclass(frozen=True)
class GraphSpec:
    """A module to export, with example inputs and names for what they hold.

    The examples are of length 2 or more, since 0 and 1 would be taken as fixed.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    """Input -> dimension -> name, where the length may differ from call to call."""
    outputs: list[str]


@dataclass(frozen=True)
class Written:
    """The files of one format."""

    parts: dict[str, str] = field(default_factory=dict)
    """Part of the model -> its file."""
    external: list[str] = field(default_factory=list)
    """Files that these refer to."""
    description: dict[str, object] = field(default_factory=dict)
    """For metadata.json."""

    @property
    def files(self) -> dict[str, str | list[str]]:
        """The same as the contract has them."""
        external: dict[str, str | list[str]] = {"external": self.external} if self.external else {}
        return {**self.parts, **external}


WriteGraphs = Callable[[dict[str, GraphSpec], Path], Written]
"""What writes one format: the graphs by the names of their parts, into an empty folder."""

ConvertGraphs = Callable[[Mapping[str, Path], Path], Written]
"""What makes one format of another: its files by the names of their parts, as `WriteGraphs`."""


@dataclass(frozen=True)
class DecoderSizes:
    """What a user of a decoder graph must know to feed it."""

    width: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int


def decoder_sizes(decoder: CausalDecoder) -> DecoderSizes:
    """Read the sizes of a causal decoder from one pass over one token."""
    embedding = decoder.get_input_embeddings()
    with torch.no_grad():
        # One token is enough: its keys have every size but the number of positions.
        out = decoder.model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=True)
    layers = out.past_key_values.layers
    # [batch, kv_heads, past, head_dim]
    _, kv_heads, _, head_dim = layers[0].keys.shape
    return DecoderSizes(
        width=embedding.embedding_dim,
        layers=len(layers),
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=embedding.num_embeddings,
    )


def decode_step(
    decoder: CausalDecoder, inputs: Tensor, past_keys: Tensor, past_values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See new positions after those of the cache; positions count on from the past.

    Args:
        decoder: causal, of transformers.
        inputs: [batch, new, width], embedded.
        past_keys: [layers, batch, kv_heads, past, head_dim]; `past` may be 0.
        past_values: as `past_keys`.

    Returns:
        Logits [batch, vocab] of the last position, and keys and values with the new positions.
    """
    batch, new, past = inputs.shape[0], inputs.shape[1], past_keys.shape[3]
    positions = torch.arange(past, past + new)
    # An explicit mask: a model's own would look at the lengths while it is traced.
    mask = torch.arange(past + new)[None, :] <= positions[:, None]
    cache = DynamicCache(zip(past_keys.unbind(0), past_values.unbind(0), strict=True))
    out = decoder.model(
        inputs_embeds=inputs,
        attention_mask=mask[None, None].expand(batch, 1, new, past + new),
        position_ids=positions[None].expand(batch, new),
        past_key_values=cache,
        use_cache=True,
    )
    hidden = out.last_hidden_state
    layers = out.past_key_values.layers
    keys = torch.stack([layer.keys for layer in layers])
    values = torch.stack([layer.values for layer in layers])
    return decoder.lm_head(hidden[:, -1]), keys, values


class TextDecoderGraph(nn.Module):
    """A causal language model with its key-value cache."""

    def __init__(self, decoder: CausalDecoder) -> None:
        super().__init__()
        self.decoder: CausalDecoder = decoder

    def forward(
        self, input_ids: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ids [batch, seq]; the rest as `decode_step`."""
        inputs = self.decoder.get_input_embeddings()(input_ids)
        return decode_step(self.decoder, inputs, past_keys, past_values)


DECODER_OUTPUTS = ["logits", "present_keys", "present_values"]


def decoder_examples(sizes: DecoderSizes) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example inputs of a decoder graph, and which of their lengths may differ.

    They are input_ids [batch, seq], and keys and values [layers, batch, kv_heads, past, head_dim].
    """
    # Five past positions: any number but 0 and 1, which would be fixed in the graph.
    past = torch.linspace(-1, 1, sizes.layers * 2 * sizes.kv_heads * 5 * sizes.head_dim)
    past = past.view(sizes.layers, 2, sizes.kv_heads, 5, sizes.head_dim)
    inputs = {
        "input_ids": torch.arange(8).view(2, 4) % sizes.vocab_size,
        "past_keys": past,
        "past_values": past.clone(),
    }
    dynamic = {
        "input_ids": {0: "batch", 1: "seq"},
        "past_keys": {1: "batch", 3: "past"},
        "past_values": {1: "batch", 3: "past"},
    }
    return inputs, dynamic


def text_decoder_spec(decoder: CausalDecoder, sizes: DecoderSizes) -> GraphSpec:
    """The graph of a causal language model, with example inputs."""
    inputs, dynamic = decoder_examples(sizes)
    return GraphSpec(TextDecoderGraph(decoder).eval(), inputs, dynamic, DECODER_OUTPUTS)


IDS_AXES = {0: "batch", 1: "seq"}


def pixels_example(image_size: int, channels: int) -> Tensor:
    """Two images as a graph takes them: [2, channels, image_size, image_size], float32."""
    values = torch.linspace(-2, 2, 2 * channels * image_size**2)
    return values.view(2, channels, image_size, image_size)


def ids_examples(vocab_size: int) -> tuple[dict[str, Tensor], dict[str, dict[int, str]]]:
    """Example input_ids and attention_mask [batch, seq], one row padded, and their axes."""
    mask = torch.ones(2, 6, dtype=torch.int64)
    # A row of each sort, so that what the mask does is part of the graph.
    mask[1, 4:] = 0
    inputs = {"input_ids": torch.arange(12).view(2, 6) % vocab_size, "attention_mask": mask}
    return inputs, {"input_ids": IDS_AXES, "attention_mask": IDS_AXES}


def pair_mask(mask: Tensor) -> Tensor:
    """Which position sees which: [batch, seq] of 1 and 0 to [batch, 1, seq, seq] bool."""
    batch, seq = mask.shape
    # Given with all its axes, it is used as it stands; one of [batch, seq] would be looked at.
    return mask.bool()[:, None, None, :].expand(batch, 1, seq, seq)
