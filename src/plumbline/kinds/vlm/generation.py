"""Greedy decoding in batches, with a key-value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from plumbline.kinds.vlm.model import Vlm
from plumbline.losses.language import token_cross_entropy
from plumbline.tracking.progress import tracked


@dataclass(frozen=True)
class Written:
    """An answer, and how sure the model was of it."""

    ids: list[int]
    """Without what ends it."""
    confidence: float
    """Probability of all its tokens, what ends it among them, each given those before it."""


def generate_answers(
    model: Vlm,
    image_features: Tensor,
    image_of_prompt: Sequence[int],
    prompts: Sequence[Sequence[int]],
    *,
    bos: int,
    eos: int,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[list[int]]:
    """As `write_answers`: the token ids alone."""
    written = write_answers(
        model,
        image_features,
        image_of_prompt,
        prompts,
        bos=bos,
        eos=eos,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    return [answer.ids for answer in written]


@torch.inference_mode()
def write_answers(
    model: Vlm,
    image_features: Tensor,
    image_of_prompt: Sequence[int],
    prompts: Sequence[Sequence[int]],
    *,
    bos: int,
    eos: int,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[Written]:
    """Answer each prompt about its image, greedily.

    Prompts are sorted into batches of equal length, so nothing is padded and an answer does not
    depend on its neighbours but for the order of float sums.

    Args:
        model: in evaluation mode.
        image_features: [images, tokens, token_width], from the image encoder.
        image_of_prompt: for each prompt, the row of its image.
        prompts: token ids without bos.
        bos: begins the answer.
        eos: ends it; not part of what is returned.
        max_new_tokens: longest answer.
        batch_size: prompts decoded together.

    Returns:
        The answers, in the order of the prompts.
    """
    answers: dict[int, Written] = {}
    batches = equal_batches([len(prompt) for prompt in prompts], batch_size)
    for rows in tracked(batches, "answering", len(prompts), "prompts", len):
        ids = torch.tensor([[*prompts[i], bos] for i in rows], device=image_features.device)
        image = model.embed_image(image_features[[image_of_prompt[i] for i in rows]])
        text = model.decoder.get_input_embeddings()(ids)  # [batch, prompt, width]
        # The image comes first, once: after the prompt the cache holds what it said.
        inputs = torch.cat([image.to(text.dtype), text], dim=1)
        decoded = continue_rows(model, inputs, eos, max_new_tokens)
        answers.update(zip(rows, decoded, strict=True))
    return [answers[row] for row in range(len(prompts))]


def equal_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of at most `batch_size` whose lengths are equal, shortest first."""
    # Padding would need a mask, and change the order of float sums.
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    for length in sorted(by_length):
        rows = by_length[length]
        for at in range(0, len(rows), batch_size):
            yield rows[at : at + batch_size]


@torch.inference_mode()
def continue_rows(model: Vlm, inputs: Tensor, eos: int, max_new_tokens: int) -> list[Written]:
    """Go on greedily from embeddings [batch, seq, width]."""
    cache = DynamicCache()
    tokens: list[Tensor] = []
    ended = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
    likelihood = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)  # [batch]
    for _ in range(max_new_tokens):
        hidden = model.decoder.model(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = model.logits(hidden[:, -1])  # [batch, vocab]
        token = logits.argmax(dim=-1)  # [batch]
        tokens.append(token)
        # In float32 whatever the model computes in, and of rows that have not ended yet.
        scores = logits.float().log_softmax(dim=-1).gather(1, token[:, None]).squeeze(1)
        likelihood += scores.double().masked_fill(ended, 0.0)
        # Rows that have ended go on with the others; what they say is cut off below.
        ended |= token == eos
        if bool(ended.all()):
            break
        inputs = model.decoder.get_input_embeddings()(token[:, None])
    rows = torch.stack(tokens, dim=1).tolist()
    sure = likelihood.exp().tolist()
    return [Written(_until(row, eos), one) for row, one in zip(rows, sure, strict=True)]


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos)] if eos in ids else ids


@torch.inference_mode()
def answer_nll(
    model: Vlm,
    image_features: Tensor,
    image_of_prompt: Sequence[int],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    bos: int,
    eos: int,
    batch_size: int = 256,
) -> tuple[float, int]:
    """Negative log-likelihood of given answers and their eos.

    Args:
        model: in evaluation mode.
        image_features: [images, tokens, token_width].
        image_of_prompt: for each prompt, the row of its image.
        prompts: token ids without bos.
        answers: token ids without eos.
        bos: begins an answer.
        eos: ends it.
        batch_size: sequences scored together.

    Returns:
        The sum in nats, and the number of tokens that it is over.
    """
    total, count = 0.0, 0
    pairs = list(zip(prompts, answers, strict=True))
    # One number for both lengths: a batch has equal prompts and equal answers, and no padding.
    batches = equal_batches([len(p) * 100_000 + len(a) for p, a in pairs], batch_size)
    for rows in tracked(batches, "scoring", len(pairs), "answers", len):
        answered = len(pairs[rows[0]][1]) + 1  # with eos
        ids = torch.tensor([[*pairs[i][0], bos, *pairs[i][1], eos] for i in rows])
        ids = ids.to(image_features.device)
        text = model.decoder.get_input_embeddings()(ids[:, :-1])
        image = model.embed_image(image_features[[image_of_prompt[i] for i in rows]])
        hidden = model.decoder.model(
            inputs_embeds=torch.cat([image.to(text.dtype), text], dim=1), use_cache=False
        ).last_hidden_state
        loss = token_cross_entropy(model.logits(hidden[:, -answered:]), ids[:, -answered:])
        total += float(loss.total.double())
        count += int(loss.count)
    return total, count
