"""Perplexity of a language model from the loss it summed over its targets."""

import math


def perplexity(total_nll: float, count: int) -> float | None:
    """Exponential of the mean loss per target token.

    Sums and counts of several batches add up before the call, so every token weighs the same and
    the value does not depend on the batch size.

    Args:
        total_nll: negative log-likelihood in nats, summed over the targets that count.
        count: number of these targets.

    Returns:
        At least 1 for a proper likelihood; None where the exponential exceeds the largest float
        or the loss is not finite, so that no figure is written that means nothing.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count = {count}: perplexity needs at least one target token")
    try:
        value = math.exp(total_nll / count)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
