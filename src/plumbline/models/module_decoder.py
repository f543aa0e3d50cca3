"""A causal decoder that is a user's own `nn.Module`, with the doors of one of transformers.

It has no key-value cache of its own: what it has seen is kept in place of keys and values, and all
of it is seen again with each token. So whoever decodes, here or in a bundle, need not know.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from typing_extensions import override

from plumbline.errors import ConfigError
from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.user_module import described, make_module, taken_arguments

GIVEN = {
    "input_ids": "int64 [batch, seq]: it then gives logits [batch, seq, vocab]",
    "inputs_embeds": "in place of them, float [batch, seq, width]: it then gives as much, and "
    "table and last map are made for it",
    "attention_mask": "bool [1 or batch, 1, seq, seq], true where a place sees another",
    "position_ids": "int64 [1 or batch, seq]",
}
"""What a decoder is given, by name."""
_PROBE_TOKENS = 6


class ModuleDecoderConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # of its base
    """Which module it is, and the sizes around it."""

    model_type = "plumbline_module"

    def __init__(
        self,
        module: str = "",
        options: Mapping[str, object] | None = None,
        vocab_size: int = 0,
        hidden_size: int = 0,
        max_position_embeddings: int = 0,
        **others: Any,
    ) -> None:
        """Keep what is given, under the names that such configurations have for it."""
        self.module, self.options = module, dict(options or {})
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.num_hidden_layers = 1  # of the cache
        super().__init__(**{**others, "tie_word_embeddings": False})


class _IdTable(nn.Module):
    """Stands where others have a table of vectors: ids as they are, [batch, seq] to [..., 1]."""

    embedding_dim = 1

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.num_embeddings = vocab_size

    @override
    def forward(self, input_ids: Tensor) -> Tensor:
        # In float32 whole numbers are exact up to 2^24, more than any vocabulary has.
        return input_ids.unsqueeze(-1).to(torch.float32)


class _Layers(nn.Module):
    """The module between the table and the last map."""

    def __init__(self, config: ModuleDecoderConfig) -> None:
        super().__init__()
        sizes = {
            "width": config.hidden_size,
            "vocab_size": config.vocab_size,
            "max_positions": config.max_position_embeddings,
        }
        self._place, self._vocab_size = config.module, config.vocab_size
        self.net = make_module(config.module, config.options, sizes)
        self.takes, needed = taken_arguments(config.module, self.net, "a decoder", GIVEN)
        self.reads_ids = "input_ids" in needed
        if self.reads_ids == ("inputs_embeds" in self.takes):
            raise ConfigError(
                f"{config.module}: its forward must take either input_ids or inputs_embeds"
            )
        self.embed_tokens: nn.Module = _IdTable(config.vocab_size)
        if not self.reads_ids:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            nn.init.normal_(self.embed_tokens.weight, std=0.02)

    @override
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **others: object,
    ) -> BaseModelOutputWithPast:
        """See ids [batch, seq] or their vectors [batch, seq, width] behind those of the cache.

        A mask is read where no cache is kept and it says of pairs who sees whom; else each place
        sees all before it, and nothing is padding.
        """
        if inputs_embeds is None:
            assert input_ids is not None, "one of both is given"
            inputs_embeds = self.embed_tokens(input_ids)
        new = inputs_embeds.shape[1]
        if use_cache:
            past_key_values = DynamicCache() if past_key_values is None else past_key_values
            # [batch, 1 head, past + new, width]: what was seen, in place of keys and values.
            keys = inputs_embeds.unsqueeze(1)
            seen, _ = past_key_values.update(keys, keys, 0)
            inputs_embeds, attention_mask, position_ids = seen.squeeze(1), None, None
        places = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
        if attention_mask is None or attention_mask.ndim != 4:
            attention_mask = (places[None, :] <= places[:, None])[None, None]
        if position_ids is None:
            position_ids = places[None]
        known = {"attention_mask": attention_mask, "position_ids": position_ids}
        given = {name: tensor for name, tensor in known.items() if name in self.takes}
        hidden = self._run(inputs_embeds, given)[:, -new:]
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _run(self, inputs_embeds: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        call: Callable[..., object] = self.net
        if self.reads_ids:
            # Examples of graphs hold any number for what a cache may hold.
            ids = inputs_embeds[..., 0].round().long().clamp(0, self._vocab_size - 1)
            out = call(input_ids=ids, **given)
        else:
            out = call(inputs_embeds=inputs_embeds, **given)
        if not isinstance(out, Tensor) or out.ndim != 3:
            wanted = "[batch, seq, vocab]" if self.reads_ids else "[batch, seq, width]"
            raise ConfigError(
                f"{self._place}: its forward gives {described(out)}; {wanted} is expected"
            )
        return out


class ModuleDecoder(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # of its base
    """The module with what a causal decoder of transformers has around it.

    One that reads ids gives logits itself; around one that reads vectors lie a table of vectors
    and its transpose.
    """

    config_class = ModuleDecoderConfig
    base_model_prefix = "model"
    config: ModuleDecoderConfig

    def __init__(self, config: ModuleDecoderConfig) -> None:
        """Make the module.

        Raises:
            ConfigError: it cannot be imported or made, or takes something else than there is.
        """
        super().__init__(config)
        self.model = _Layers(config)
        table = self.model.embed_tokens
        self.lm_head: nn.Module = nn.Identity()
        if isinstance(table, nn.Embedding):
            tied = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
            tied.weight = table.weight
            self.lm_head = tied

    @override
    def _init_weights(self, module: nn.Module) -> None:
        """Leave the user's own beginning as it is."""

    @override
    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.model.embed_tokens
        return table

    @override
    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor | None = None, **rows: Any) -> CausalLMOutputWithPast:
        """Map ids [batch, seq] to logits [batch, seq, vocab]; the rest as `_Layers` takes it."""
        out = self.model(input_ids=input_ids, **rows)
        logits = self.lm_head(out.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)


def build_module_decoder(config: DecoderConfig, vocab_size: int) -> ModuleDecoder:
    """Make a decoder of a user's module, and see that it is one.

    Args:
        config: names it.
        vocab_size: number of token ids.

    Raises:
        ConfigError: it cannot be made, takes or gives something else, or looks ahead.
    """
    decoder = ModuleDecoder(
        ModuleDecoderConfig(
            module=config.module or "",
            options=config.options,
            vocab_size=vocab_size,
            hidden_size=config.width,
            max_position_embeddings=config.max_positions,
        )
    )
    try:
        nn.Module.eval(decoder)  # typed, unlike that of transformers
        _check(decoder)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{config.module}: fails on {_PROBE_TOKENS} tokens: {reason}") from None
    decoder.train()
    return decoder


def needs_masks(decoder: object) -> None:
    """Check that a decoder can be shown images and several texts about one.

    Raises:
        ConfigError: it is a module that takes no vectors, mask or positions.
    """
    if not isinstance(decoder, ModuleDecoder):
        return
    takes = decoder.model.takes
    for name in ("inputs_embeds", "attention_mask", "position_ids"):
        if name not in takes:
            raise ConfigError(
                f"{decoder.config.module}: its forward takes no {name}: a decoder that is shown "
                f"images is given {name} {GIVEN[name]}"
            )


@torch.no_grad()
def _check(decoder: ModuleDecoder) -> None:
    """See the module's answer to a few tokens, and to the same with another last one."""
    config = decoder.config
    ids = torch.arange(_PROBE_TOKENS)[None] % config.vocab_size
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % config.vocab_size
    out = decoder.model(input_ids=ids).last_hidden_state
    width = config.vocab_size if decoder.model.reads_ids else config.hidden_size
    if out.shape != (1, _PROBE_TOKENS, width):
        raise ConfigError(
            f"{config.module}: its forward gives {described(out)} for {_PROBE_TOKENS} tokens; "
            f"[1, {_PROBE_TOKENS}, {width}] is expected"
        )
    changed = decoder.model(input_ids=other).last_hidden_state
    if not torch.allclose(out[:, :-1], changed[:, :-1], rtol=1e-4, atol=1e-5):
        raise ConfigError(
            f"{config.module}: it looks ahead: what it gives at a place changes with tokens behind "
            "it, so it would learn to copy them; let each place see itself and what stands before"
        )


AutoConfig.register(ModuleDecoderConfig.model_type, ModuleDecoderConfig)
AutoModelForCausalLM.register(ModuleDecoderConfig, ModuleDecoder)
