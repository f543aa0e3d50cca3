"""How far a figure would move with other samples of the same kind."""

import numpy as np
from numpy.typing import NDArray


def bootstrap_interval(
    hits: NDArray[np.float64], seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-query values.

    Queries are drawn with replacement. Only how often each distinct value is drawn matters, which
    is multinomial, so the cost grows with the distinct values and not with the queries.

    Args:
        hits: [queries] per-query values, such as whether the answer was right.
        seed: key of the random stream; equal arguments give equal bits.
        resamples: number of bootstrap samples.
        level: share of the bootstrap means inside the interval, in (0, 1).

    Raises:
        ValueError: no queries, no resamples, or a level outside (0, 1).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    if not hits.size:
        raise ValueError("no queries: an interval is undefined")
    if resamples < 1:
        raise ValueError(f"resamples = {resamples}: must be at least 1")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    values, counts = np.unique(hits, return_counts=True)
    rng = np.random.Generator(np.random.Philox(seed))
    shares = counts / hits.size
    means = [rng.multinomial(hits.size, shares) @ values / hits.size for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
