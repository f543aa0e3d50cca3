"""Conversations in the making: those that show images, up to where an answer begins, and answers.

Batches are of equal length, so nothing is padded and an answer does not depend on its neighbours
but for the order of float sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from plumbline.data.turns import IMAGE_ID, Turn
from plumbline.kinds.language.chat import encode_prompt
from plumbline.kinds.vlm.generation import Written, continue_rows, equal_batches
from plumbline.kinds.vlm.model import Vlm, VlmSpec
from plumbline.losses.language import token_cross_entropy
from plumbline.tracking.progress import tracked


@dataclass(frozen=True)
class Talk:
    """A conversation as the decoder reads it."""

    ids: list[int]
    """`IMAGE_ID` in the places of images."""
    images: list[int]
    """Of each image in the order of its places, its row among the features at hand."""


def make_prompt(
    spec: VlmSpec, tokenizer: Tokenizer, image_tokens: int, turns: Sequence[Turn]
) -> list[int]:
    """Ids of turns up to where an answer begins, with all tokens of each image.

    Raises:
        DataError: the template refuses the turns.
    """
    assert spec.chat is not None, "it reads conversations"
    ids = np.array(encode_prompt(spec.chat, tokenizer, turns))
    whole: list[int] = np.repeat(ids, np.where(ids == IMAGE_ID, image_tokens, 1)).tolist()
    return whole


def embed_talks(model: Vlm, features: Tensor, talks: Sequence[Talk]) -> Tensor:
    """Embed conversations of equal length.

    Args:
        model: whose decoder reads them.
        features: [images, tokens, token_width], from the image encoder.
        talks: as the decoder reads them.

    Returns:
        [batch, seq, width].
    """
    ids = torch.tensor([talk.ids for talk in talks], device=features.device)  # [batch, seq]
    places = ids == IMAGE_ID
    # [images of all, tokens, token_width]: rows may show more or fewer than others.
    shown = features[[number for talk in talks for number in talk.images]]
    return model.embed_rows(shown, ids.masked_fill(places, 0), places)


def answer_talks(
    model: Vlm,
    features: Tensor,
    talks: Sequence[Talk],
    *,
    eos: int,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[list[int]]:
    """As `write_talks`: the token ids alone."""
    written = write_talks(
        model, features, talks, eos=eos, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return [answer.ids for answer in written]


@torch.inference_mode()
def write_talks(
    model: Vlm,
    features: Tensor,
    talks: Sequence[Talk],
    *,
    eos: int,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[Written]:
    """Answer each conversation, greedily.

    Args:
        model: in evaluation mode.
        features: [images, tokens, token_width], from the image encoder.
        talks: up to where the answers begin.
        eos: ends an answer; not part of what is returned.
        max_new_tokens: longest answer.
        batch_size: conversations answered together.

    Returns:
        The answers, in the order of the conversations.
    """
    answers: dict[int, Written] = {}
    batches = equal_batches([len(talk.ids) for talk in talks], batch_size)
    for rows in tracked(batches, "answering", len(talks), "prompts", len):
        inputs = embed_talks(model, features, [talks[row] for row in rows])
        decoded = continue_rows(model, inputs, eos, max_new_tokens)
        answers.update(zip(rows, decoded, strict=True))
    return [answers[row] for row in range(len(talks))]


@torch.inference_mode()
def answer_logits(model: Vlm, features: Tensor, talks: Sequence[Talk], answered: int) -> Tensor:
    """Logits [batch, answered, vocab] of the last tokens of conversations of equal length."""
    # The last token is predicted and never seen.
    seen = [Talk(talk.ids[:-1], talk.images) for talk in talks]
    # Without a cache, which a bundle's own is compared with.
    hidden = model.decoder.model(
        inputs_embeds=embed_talks(model, features, seen), use_cache=False
    ).last_hidden_state
    return model.logits(hidden[:, -answered:])


@torch.inference_mode()
def talk_nll(
    model: Vlm,
    features: Tensor,
    talks: Sequence[Talk],
    answered: Sequence[int],
    *,
    batch_size: int = 256,
) -> tuple[float, int]:
    """Negative log-likelihood of given answers and what ends them.

    Args:
        model: in evaluation mode.
        features: [images, tokens, token_width].
        talks: up to the ends of the answers.
        answered: tokens of each answer, at the end of its conversation.
        batch_size: conversations scored together.

    Returns:
        The sum in nats, and the number of tokens that it is over.
    """
    total, count = 0.0, 0
    # One number for both lengths: a batch has equal prompts and equal answers.
    keys = [len(talk.ids) * 100_000 + most for talk, most in zip(talks, answered, strict=True)]
    batches = equal_batches(keys, batch_size)
    for rows in tracked(batches, "scoring", len(talks), "answers", len):
        batch, most = [talks[row] for row in rows], answered[rows[0]]
        logits = answer_logits(model, features, batch, most)
        labels = torch.tensor([talk.ids[-most:] for talk in batch], device=logits.device)
        loss = token_cross_entropy(logits, labels)
        total += float(loss.total.double())
        count += int(loss.count)
    return total, count
