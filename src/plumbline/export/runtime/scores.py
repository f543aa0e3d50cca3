"""From scores to probabilities, so that none overflows, and to the tokens drawn by them."""

import numpy as np
from numpy.typing import NDArray

from .files import Floats, InputError

Float64s = NDArray[np.float64]


def log_softmax(logits: Floats | Float64s) -> Float64s:
    """Logarithms of the probabilities over the last axis of [..., vocab], in float64.

    Raises:
        InputError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError("the model gave no finite scores for this input")
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    out: Float64s = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out


def softmax(logits: Floats | Float64s) -> Float64s:
    """Probabilities over the last axis of [..., vocab], in float64; errors as `log_softmax`."""
    out: Float64s = np.exp(log_softmax(logits))
    return out


def next_probabilities(
    logits: Floats, temperature: float, top_k: int | None, top_p: float | None
) -> Float64s:
    """Probabilities [vocab] that the next token is drawn by.

    Args:
        logits: [vocab].
        temperature: above 0; divides the logits.
        top_k: None, or the number of likeliest tokens that are left.
        top_p: None, or what the likeliest tokens that are left have of the probability together.
    """
    scaled = logits.astype(np.float64) / temperature
    if top_k is not None and top_k < len(scaled):
        # Of equal scores at the border all are left, whatever order they are in.
        lowest = np.partition(scaled, -top_k)[-top_k]
        scaled = np.where(scaled < lowest, -np.inf, scaled)
    kept = np.isfinite(scaled)
    probabilities = np.zeros(len(scaled))
    # Over those that are left alone: -inf would be refused as a score.
    probabilities[kept] = softmax(scaled[kept])
    if top_p is not None and top_p < 1:
        # The likeliest first; the one that reaches top_p is still in.
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= top_p]] = 0
        probabilities /= probabilities.sum()
    return probabilities


def choose_token(
    logits: Floats,
    random: np.random.Generator,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> int:
    """Draw the next token from logits [vocab]; at temperature 0 it is the likeliest.

    Raises:
        InputError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise InputError("the model gave no finite scores for this input")
    if temperature == 0:
        return int(logits.argmax())
    return int(random.choice(len(logits), p=next_probabilities(logits, temperature, top_k, top_p)))
