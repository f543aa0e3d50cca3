"""Going on from a prompt with a causal language model."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import StoppingCriteria, StoppingCriteriaList

from plumbline.errors import DataError
from plumbline.evaluation.config import SamplingConfig
from plumbline.models.language import CausalLm, CausalLmSpec


class _Stop(StoppingCriteria):
    """Ends when one of the texts stands in what was added."""

    def __init__(self, tokenizer: Tokenizer, prompt_tokens: int, texts: Sequence[str]) -> None:
        self._tokenizer, self._from, self._texts = tokenizer, prompt_tokens, texts

    def __call__(self, input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        added = self._tokenizer.decode(input_ids[0, self._from :].tolist())
        done = any(text in added for text in self._texts)
        return torch.tensor([done], device=input_ids.device)


@torch.inference_mode()
def continue_text(
    model: CausalLm,
    spec: CausalLmSpec,
    tokenizer: Tokenizer,
    prompt: str,
    config: SamplingConfig,
) -> str:
    """Continue a prompt; equal seeds give equal texts, and temperature 0 is greedy.

    A model of running text reads on from the prompt, keeping as much of it as its blocks hold; a
    model of questions answers it.

    Args:
        model: in evaluation mode.
        spec: of the model.
        tokenizer: of the model.
        prompt: at least one token.
        config: length, temperature, what to draw from and where to stop.

    Returns:
        The text that was added, without the prompt.

    Raises:
        DataError: the prompt has no token.
    """
    ids = _frame(tokenizer.encode(prompt, add_special_tokens=False).ids, spec)
    if not ids:
        raise DataError(f"prompt {prompt!r}: has no token to go on from")
    positions = model.decoder.config.max_position_embeddings
    added = min(config.max_new_tokens, positions - 1)
    ids = ids[-(positions - added) :]
    device = next(model.parameters()).device
    inputs = torch.tensor([ids], device=device)
    stopping = StoppingCriteriaList()
    if config.stop:
        stopping.append(_Stop(tokenizer, len(ids), config.stop))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        out = model.decoder.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=added,
            eos_token_id=spec.special_ids.eos,
            pad_token_id=spec.special_ids.pad,
            stopping_criteria=stopping,
            **_drawing(config),
        )
    return _cut(tokenizer, out[0, len(ids) :].tolist(), spec.special_ids.eos, config.stop)


def _frame(ids: list[int], spec: CausalLmSpec) -> list[int]:
    """A prompt as training framed what stands before the text to write."""
    if spec.text == "question_answer":
        return [*ids, spec.special_ids.bos]
    return ids if spec.packed else [spec.special_ids.bos, *ids]


def _drawing(config: SamplingConfig) -> dict[str, Any]:
    """The settings under the names that transformers has for them."""
    if config.temperature == 0.0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": config.temperature,
        "top_k": config.top_k or 0,
        "top_p": config.top_p or 1.0,
    }


def _cut(tokenizer: Tokenizer, ids: list[int], eos: int, stop: Sequence[str]) -> str:
    """The text before the end of sequence and before the first of the stop texts."""
    ids = ids[: ids.index(eos)] if eos in ids else ids
    text: str = tokenizer.decode(ids)
    ends = [text.index(end) for end in stop if end in text]
    return text[: min(ends)] if ends else text
