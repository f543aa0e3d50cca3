"""Going on from a prompt with a causal language model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from tokenizers import Tokenizer
from transformers import StoppingCriteria, StoppingCriteriaList

from plumbline.data.turns import Turn
from plumbline.errors import DataError
from plumbline.kinds.causal_lm.model import CausalLm, CausalLmSpec
from plumbline.kinds.language.chat import encode_prompt
from plumbline.kinds.language.settings import SamplingConfig

logger = logging.getLogger(__name__)


class _Stop(StoppingCriteria):
    """Ends when one of the texts stands in what was added."""

    def __init__(self, tokenizer: Tokenizer, prompt_tokens: int, texts: Sequence[str]) -> None:
        self._tokenizer, self._from, self._texts = tokenizer, prompt_tokens, texts

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **others: object
    ) -> torch.Tensor:
        # As a whole: a stop text may begin in one token and end in another.
        added = self._tokenizer.decode(input_ids[0, self._from :].tolist())
        done = any(text in added for text in self._texts)
        # [batch]: of one row, since a prompt is continued alone.
        return torch.tensor([done], device=input_ids.device)


@dataclass(frozen=True)
class Continuation:
    """What a model added to a prompt."""

    text: str
    cut_tokens: int
    """Tokens of the prompt's beginning that did not fit the model's positions."""


def fit_prompt(ids: Sequence[int], positions: int, max_new_tokens: int) -> tuple[list[int], int]:
    """The prompt as it fits the model, and how many tokens may be added to it.

    What is added gets the room that the prompt leaves, never the other way round. A prompt that
    leaves none keeps its end, and one token is added.
    """
    # One position is left for the token that is added in any case.
    kept = list(ids[-(positions - 1) :])
    return kept, min(max_new_tokens, positions - len(kept))


@torch.inference_mode()
def continue_text(
    model: CausalLm,
    spec: CausalLmSpec,
    tokenizer: Tokenizer,
    prompt: str | Sequence[Turn],
    config: SamplingConfig,
) -> Continuation:
    """Continue a prompt; equal seeds give equal texts, and temperature 0 is greedy.

    A model of running text reads on from the prompt, a model of questions answers it, and so does
    one of conversations, for which a text is a first turn of the user. A prompt that is longer than
    the model's positions is cut at its beginning, which a line says.

    Args:
        model: in evaluation mode.
        spec: of the model.
        tokenizer: of the model.
        prompt: at least one token; turns where the model reads them.
        config: length, temperature, what to draw from and where to stop.

    Returns:
        The text that was added, without the prompt, and how much of the prompt was cut.

    Raises:
        DataError: the prompt has no token, or the template refuses the turns.
    """
    ids = prompt_ids(spec, tokenizer, prompt)
    if not ids:
        raise DataError(f"prompt {prompt!r}: has no token to go on from")
    positions = model.decoder.config.max_position_embeddings
    whole = len(ids)
    ids, added = fit_prompt(ids, positions, config.max_new_tokens)
    if cut := whole - len(ids):
        logger.warning(
            "prompt of %d tokens: the model has %d positions, so its first %d tokens are cut",
            *(whole, positions, cut),
        )
    device = next(model.parameters()).device
    inputs = torch.tensor([ids], device=device)  # [1, seq]
    stopping = StoppingCriteriaList()
    if config.stop:
        stopping.append(_Stop(tokenizer, len(ids), config.stop))
    # The caller's generator goes on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        out = model.decoder.generate(
            inputs,
            # Left out, an id of pad within the prompt would be taken for padding.
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=added,
            eos_token_id=spec.special_ids.eos,
            pad_token_id=spec.special_ids.pad,
            stopping_criteria=stopping,
            **_drawing(config),
        )
    text = _cut(tokenizer, out[0, len(ids) :].tolist(), spec.special_ids.eos, config.stop)
    return Continuation(text, cut)


def prompt_ids(spec: CausalLmSpec, tokenizer: Tokenizer, prompt: str | Sequence[Turn]) -> list[int]:
    """A prompt as training framed what stands before the text to write.

    Raises:
        DataError: the template refuses the turns, or the model reads none.
    """
    special = spec.special_ids
    if spec.chat is not None:
        turns: Sequence[Turn] = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )
        return encode_prompt(spec.chat, tokenizer, turns)
    if not isinstance(prompt, str):
        raise DataError("a prompt of turns, but the model was not trained on conversations")
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    if spec.text == "question_answer":
        return [*ids, special.bos]
    return ids if spec.packed else [special.bos, *ids]


class _Drawing(TypedDict, total=False):
    """What `generate` of transformers takes on how tokens are drawn."""

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float


def _drawing(config: SamplingConfig) -> _Drawing:
    """The settings under the names that transformers has for them."""
    if config.temperature == 0.0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": config.temperature,
        # 0 and 1.0 turn them off; left out, those of a checkpoint would hold.
        "top_k": config.top_k or 0,
        "top_p": config.top_p or 1.0,
    }


def _cut(tokenizer: Tokenizer, ids: list[int], eos: int, stop: Sequence[str]) -> str:
    """The text before the end of sequence and before the first of the stop texts."""
    ids = ids[: ids.index(eos)] if eos in ids else ids
    text: str = tokenizer.decode(ids)
    # The token that completed a stop text may have gone on behind it.
    ends = [text.index(end) for end in stop if end in text]
    return text[: min(ends)] if ends else text
