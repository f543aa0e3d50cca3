"""The order of samples that are read from shards; those of a window of shards are mixed."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def by_window(order: Indices, shards: Indices, window: int, random: Generator) -> Indices:
    """Sort an order so that it reads a few shards at a time, which are drawn.

    Args:
        order: [samples] their indices, shuffled; they keep their order within a window.
        shards: [samples] the shard of each index.
        window: shards that are read at a time; where there are no more, nothing is sorted.
        random: draws which shards share a window.
    """
    # Shards of this split alone: the others count for no window.
    there, of_sample = np.unique(shards, return_inverse=True)
    windows = random.permutation(len(there)) // window  # [shards]
    # Stable: what stands in a window keeps the order that was drawn for all.
    return order[np.argsort(windows[of_sample[order]], kind="stable")]
