"""How attention spreads over what it may see, head by head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from plumbline.models.packed import dense_mask, holds_spans

NAME = "plumbline_observed"

Seen = Callable[[nn.Module, Tensor], None]
"""(the module, its weights [batch, heads, queries, keys], which sum to 1 over the keys)."""


class AttentionWatch:
    """While it is on, attention is computed step by step and its weights are told."""

    def __init__(self, model: nn.Module, seen: Seen) -> None:
        """Watch the attention of transformers' models and of torch's own module."""
        self._model, self._seen = model, seen
        self._hooks: list[RemovableHandle] = []
        self._before: list[tuple[PreTrainedModel, str]] = []

    def __enter__(self) -> "AttentionWatch":
        AttentionInterface.register(NAME, partial(_attend, self._seen))
        AttentionMaskInterface.register(NAME, eager_mask)
        outer: list[str] = []
        for name, module in self._model.named_modules():
            if isinstance(module, PreTrainedModel) and not name.startswith(tuple(outer)):
                self._before.append((module, module.config._attn_implementation))
                module.set_attn_implementation(NAME)
                outer.append(f"{name}.")
            if isinstance(module, nn.MultiheadAttention):
                self._hooks.append(
                    module.register_forward_pre_hook(_ask_for_weights, with_kwargs=True)
                )
                self._hooks.append(module.register_forward_hook(partial(_tell, self._seen)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for module, implementation in self._before:
            module.set_attn_implementation(implementation)


def _ask_for_weights(
    module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    return inputs, {**named, "need_weights": True, "average_attn_weights": False}


def _tell(seen: Seen, module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
    seen(module, output[1])


def _attend(
    seen: Seen,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, Tensor]:
    """Attention as transformers calls it; a mask is boolean or is added to the scores."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(2, 3)).float() * scale
    if attention_mask is not None and holds_spans(attention_mask):
        # Samples one behind the other in a row.
        causal = getattr(module, "is_causal", False)
        attention_mask = dense_mask(attention_mask, *scores.shape[2:], causal=causal)
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(dim=-1)
    seen(module, weights)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), weights


def head_entropies(weights: Tensor) -> list[tuple[float, float]]:
    """How evenly each head looks at what it may see, over the queries that have a choice.

    Args:
        weights: [batch, heads, queries, keys], sums of 1 over the keys.

    Returns:
        Per head the mean entropy in nats, and its mean share of the largest possible one: 1 where
        all visible keys weigh the same, 0 where one has all the weight. NaN without a choice.
    """
    weights = weights.double()
    entropy = torch.special.entr(weights).sum(dim=-1)
    visible = (weights > 0).sum(dim=-1)
    choice = visible > 1
    share = entropy / visible.clamp(min=2).double().log()
    found = []
    for head in range(weights.shape[1]):
        counted = choice[:, head]
        found.append(
            (float(entropy[:, head][counted].mean()), float(share[:, head][counted].mean()))
        )
    return found
