"""Perplexity of a language model from the loss it summed over its targets."""

import math


def perplexity(total_nll: float, count: int) -> float:
    """Exponential of the mean loss per target token.

    Sums and counts of several batches add up before the call, so every token weighs the same and
    the value does not depend on the batch size.

    Args:
        total_nll: negative log-likelihood in nats, summed over the targets that count.
        count: number of these targets.

    Returns:
        At least 1 for a proper likelihood; infinity where the exponential exceeds a float.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count = {count}: perplexity needs at least one target token")
    try:
        return math.exp(total_nll / count)
    except OverflowError:
        return math.inf
