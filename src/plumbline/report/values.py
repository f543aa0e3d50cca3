"""Numbers beside what was predicted for them: which are drawn, and which are farthest off."""

import heapq
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.report.figures import number
from plumbline.report.samples import Key
from plumbline.report.settings import MOST_SAMPLES

POINTS = 600
"""The most points that are drawn."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Error:
    """One number that was missed."""

    key: Key
    true: float
    said: float


class Values:
    """Pairs of true and predicted numbers, 16 bytes each."""

    def __init__(self) -> None:
        """Begin with no pair."""
        self._true, self._said = array("d"), array("d")
        self._heap: list[tuple[float, int, Error]] = []

    def add(self, key: Key, true: float, said: float) -> None:
        """Take one pair."""
        self._true.append(true)
        self._said.append(said)
        entry = (abs(said - true), -len(self._true), Error(key, true, said))
        if len(self._heap) < MOST_SAMPLES:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def drawn(self) -> tuple[Floats, Floats, str]:
        """True and predicted numbers [drawn] to draw, and what they are in words."""
        true, said = np.array(self._true), np.array(self._said)
        step = -(-len(true) // POINTS)
        words = (
            f"{number(len(true))} values from {number(true.min())} to {number(true.max())}, "
            f"predicted {number(said.min())} to {number(said.max())}; a right prediction lies on "
            "the line."
        )
        if step > 1:
            words += f" One in {number(step)} is drawn."
        return true[::step], said[::step], words

    def largest(self, limit: int) -> list[Error]:
        """The largest errors first; of equal ones the first."""
        return [error for _, _, error in sorted(self._heap, reverse=True)][:limit]
