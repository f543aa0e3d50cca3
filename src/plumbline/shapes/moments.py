"""Mean and standard deviation of numbers that come in pieces and are never all in memory."""

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Running moments per channel, in float64.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm", (2.1).
    """

    def __init__(self, channels: int) -> None:
        """Begin with no number."""
        self.count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, values: NDArray[np.floating]) -> None:
        """Add numbers [count, channels]."""
        new = len(values)
        if not new:
            return
        wide = values.astype(np.float64)
        mean = wide.mean(axis=0)
        squares = ((wide - mean) ** 2).sum(axis=0)
        total = self.count + new
        step = mean - self._mean
        self._squares += squares + step**2 * (self.count * new / total)
        self._mean += step * (new / total)
        self.count = total

    def mean(self) -> list[float]:
        """The means, [channels]."""
        return [rounded(number) for number in self._mean.tolist()]

    def std(self) -> list[float]:
        """The standard deviations over all numbers, not estimates from a sample, [channels]."""
        deviations = np.sqrt(self._squares / max(self.count, 1))
        return [rounded(number) for number in deviations.tolist()]


def rounded(number: float) -> float:
    """Nine significant digits: what float32 can tell apart, and no noise of the last bits."""
    return float(f"{number:.9g}")
