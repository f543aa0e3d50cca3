"""The order of samples that are read from shards, and shards that come from afar in that order."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from plumbline.errors import PlumblineError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SampleShards:
    """Where some samples are read from."""

    of_sample: Indices
    """[samples] the shard of each."""
    bring: Callable[[int], object] | None = None
    """Copies a shard to this machine, unless it is there; None: all are."""


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


@contextmanager
def bringing_ahead(
    shards: SampleShards | None, plan: Sequence[Indices], window: int
) -> Iterator[Callable[[], None]]:
    """Bring shards in a thread, a window before the batches that read them.

    Args:
        shards: of the samples; None: they lie in none.
        plan: indices [samples] of each batch to come.
        window: how many shards come ahead of those that have been asked for.

    Yields:
        what to call before each batch.
    """
    if shards is None or shards.bring is None:
        yield lambda: None
        return
    ahead = _Ahead(_first_reads(shards.of_sample, plan), shards.bring, window)
    try:
        yield ahead.step
    finally:
        ahead.close()


def _first_reads(shards: Indices, plan: Sequence[Indices]) -> list[tuple[int, int]]:
    """Each shard that a plan reads, behind the number of the first batch that does."""
    seen: dict[int, int] = {}
    for number, batch in enumerate(plan):
        for shard in np.unique(shards[batch]).tolist():
            seen.setdefault(shard, number)
    return [(number, shard) for shard, number in seen.items()]


class _Ahead:
    """The thread; it ends with the process, whatever it is at."""

    def __init__(
        self, reads: Sequence[tuple[int, int]], bring: Callable[[int], object], window: int
    ) -> None:
        self._reads, self._bring, self._window = reads, bring, window
        self._first = [number for number, _ in reads]  # not falling: reads stand in their order
        self._batch, self._over = 0, False
        self._moved = threading.Condition()
        threading.Thread(target=self._run, name="shards-ahead", daemon=True).start()

    def step(self) -> None:
        """One batch more is asked for."""
        with self._moved:
            self._batch += 1
            self._moved.notify()

    def close(self) -> None:
        """No more is asked for."""
        with self._moved:
            self._over = True
            self._moved.notify()

    def _run(self) -> None:
        for at, (_, shard) in enumerate(self._reads):
            with self._moved:
                while not self._over and at >= self._allowed():
                    self._moved.wait()
                if self._over:
                    return
            try:
                self._bring(shard)
            except PlumblineError:
                return  # who reads the shard meets the same, and says so

    def _allowed(self) -> int:
        return bisect_left(self._first, self._batch) + self._window
