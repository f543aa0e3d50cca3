"""A causal decoder, from sizes or from a checkpoint: the part that several kinds build from."""

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.errors import ConfigError
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.module_decoder import build_module_decoder
from plumbline.models.pretrained import Origin, build_from_checkpoint


class LayerCache(Protocol):
    """What one layer has kept of the past: [batch, kv_heads, past, head_dim] each."""

    keys: Tensor
    values: Tensor


class KeyValueCache(Protocol):
    """What the layers have kept of the past."""

    @property
    def layers(self) -> Sequence[LayerCache]:
        """In the order of the layers."""


class DecoderOutput(Protocol):
    """What the layers of a decoder give."""

    last_hidden_state: Tensor
    """[batch, seq, width]."""
    past_key_values: KeyValueCache


class LogitsOutput(Protocol):
    """What a language model gives."""

    logits: Tensor
    """[batch, seq, vocab]."""


class CausalDecoder(Protocol):
    """What is used of a causal decoder of transformers, none of whose classes declares it all."""

    config: PreTrainedConfig
    model: Callable[..., DecoderOutput]
    """The layers, without the last map to logits."""
    base_model: Callable[..., DecoderOutput]
    """The same of any type, whatever it calls them."""
    lm_head: Callable[[Tensor], Tensor]
    """[..., width] to [..., vocab]."""

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of the tokens' vectors."""

    def get_output_embeddings(self) -> nn.Module:
        """The last map, to logits."""

    def generate(self, inputs: Tensor, **options: object) -> Tensor:
        """Ids [batch, seq] with what is added to them."""

    def __call__(self, *, input_ids: Tensor, use_cache: bool, **rows: Tensor) -> LogitsOutput:
        """See ids [batch, seq]; of rows of several samples a mask and positions."""


def build_decoder(
    config: DecoderConfig, vocab_size: int, pad: int, origin: Origin | None = None
) -> CausalDecoder:
    """A Qwen3-type decoder of random weights, a checkpoint, or a module of the user's.

    Args:
        config: sizes, which a checkpoint has of its own, or the module.
        vocab_size: number of token ids; a checkpoint's embedding grows to it where it is smaller.
        pad: id of the padding token.
        origin: of the checkpoint, or of the architecture of a trained one.

    Raises:
        ConfigError: the checkpoint cannot be loaded, or the module is no causal decoder.
    """
    model = build_from_checkpoint(AutoModelForCausalLM, origin, tower="decoder")
    if model is not None and origin is not None:
        decoder = cast(CausalDecoder, model)
        # A stored one has grown before it was stored. It never shrinks: the rows of a checkpoint
        # beyond the tokenizer are often padding for the sake of the hardware.
        if origin.with_weights and decoder.get_input_embeddings().num_embeddings < vocab_size:
            model.resize_token_embeddings(vocab_size)
        return decoder
    if config.module:
        return cast(CausalDecoder, build_module_decoder(config, vocab_size))
    made = Qwen3ForCausalLM(
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
            attention_dropout=0.0,  # as in the published models of this type
            pad_token_id=pad,
        )
    )
    return cast(CausalDecoder, made)


def no_change(logits: Tensor) -> Tensor:
    """What most decoders do behind their last map: nothing."""
    return logits


def find_change(decoder: CausalDecoder) -> Callable[[Tensor], Tensor] | None:
    """What `change_behind_map` finds; None where the layers cannot be called for themselves."""
    try:
        return change_behind_map(decoder)
    except ConfigError:
        return None


def change_behind_map(decoder: CausalDecoder) -> Callable[[Tensor], Tensor]:
    """What a decoder does to logits [..., vocab] behind its last map: caps or scales them.

    Whoever calls the layers and the map for themselves has to do it too.

    Raises:
        ConfigError: it does something else.
    """
    config = decoder.config
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma types
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere types
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite types

    def change(logits: Tensor) -> Tensor:
        scaled = logits if factor == 1.0 else logits * factor
        return torch.tanh(scaled / cap) * cap if cap else scaled

    ids = torch.tensor([[0, 1]])
    with torch.no_grad():
        # Whatever the layers drop, both see the same of.
        hidden = decoder.base_model(input_ids=ids, use_cache=False).last_hidden_state
        handle = decoder.get_output_embeddings().register_forward_pre_hook(lambda *_: (hidden,))
        try:
            own = decoder(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        found = change(decoder.get_output_embeddings()(hidden))
    if not torch.allclose(own, found, rtol=1e-4, atol=1e-4):
        raise ConfigError(
            f"a decoder of type {config.model_type} changes logits behind its last map in a way "
            "that is not known: it cannot speak of images"
        )
    return change if cap or factor != 1.0 else no_change
