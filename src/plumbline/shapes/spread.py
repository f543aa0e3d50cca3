"""How numbers spread: exact counts, order statistics and a histogram.

Nothing is sampled and nothing is fitted: batches of any size and order give the same figures.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.shapes.moments import rounded

BINS = 20
"""Of a histogram, equally wide from the least number to the greatest."""
EXACT = 4096
"""Integers below this are counted one by one; above, with those that share their first bits."""
_BITS = EXACT.bit_length() - 2
_PERCENTS = (5, 25, 50, 75, 95, 99)

Ordered = Callable[[], Iterable[tuple[float, int]]]
"""Gives numbers with how often each occurs, in rising order, as often as it is called."""


class Spread(TypedDict):
    """Of numbers of one kind; `p50` is the least one that half of them do not exceed."""

    count: int
    mean: float
    min: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float
    max: float
    histogram: list[int]
    """Numbers in each of `BINS` classes between min and max; one class where these are equal."""


class ValueSpread(Spread):
    """Of numbers that a model is to predict."""

    std: float
    """Over all numbers, not an estimate from a sample."""
    zeros: int
    outliers: int
    """Beyond three times the distance of the quartiles from the nearer of them; 0 where they meet.

    Source: Tukey 1977, "Exploratory Data Analysis", section 2D: far out.
    """


class IntegerCounts:
    """Counts integers from 0 on; memory is bounded by their size in bits, not by their number.

    Above `EXACT` a number counts with those that have the same first eleven bits, so that quantiles
    are low by less than one part in 1,024; the least, the greatest and the mean are exact.

    Source: Tene, "HdrHistogram: A High Dynamic Range Histogram", https://hdrhistogram.org.
    """

    def __init__(self) -> None:
        """Begin with no number."""
        self.count = 0
        self._counts: dict[int, int] = {}
        self._sum = 0
        self._bounds: tuple[int, int] | None = None

    def add(self, numbers: NDArray[np.integer]) -> None:
        """Add integers, at least 0, [count]."""
        values, counts = np.unique(numbers, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._add(value, count)

    def add_one(self, number: int) -> None:
        """Add an integer, at least 0."""
        self._add(number, 1)

    def _add(self, value: int, count: int) -> None:
        low, high = self._bounds or (value, value)
        self._bounds = min(low, value), max(high, value)
        self.count += count
        self._sum += value * count
        place = _class_of(value)
        self._counts[place] = self._counts.get(place, 0) + count

    def describe(self, unit: int = 1) -> Spread:
        """The spread, in units of so many.

        Raises:
            ValueError: nothing was counted.
        """
        if self._bounds is None:
            raise ValueError("nothing was counted")
        least, greatest = self._bounds
        ranked = [
            (max(least, value) / unit, count) for value, count in sorted(self._counts.items())
        ]
        bounds = least / unit, greatest / unit
        return _describe(ranked, self.count, rounded(self._sum / self.count / unit), bounds)


def describe_values(ordered: Ordered) -> ValueSpread | None:
    """The spread of any numbers, exact; None where there is none."""
    count = zeros = 0
    least = greatest = math.nan
    for value, times in ordered():
        least, greatest = (value if not count else least), value
        count += times
        zeros += times * (value == 0)
    if not count:
        return None
    mean = math.fsum(value * times for value, times in ordered()) / count
    squares = math.fsum((value - mean) ** 2 * times for value, times in ordered())
    spread = _describe(ordered(), count, rounded(mean), (least, greatest))
    fence = 3 * (spread["p75"] - spread["p25"])
    low, high = spread["p25"] - fence, spread["p75"] + fence
    outliers = sum(times for value, times in ordered() if fence and not low <= value <= high)
    std = rounded(math.sqrt(squares / count))
    return {**spread, "std": std, "zeros": zeros, "outliers": outliers}


def share(part: float, whole: float) -> str:
    """A part in percent, of which what is not nothing is never 0.

    >>> share(1, 3), share(1, 10_000)
    ('33 %', 'less than 1 %')
    """
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 1 or not part else "less than 1 %"


def _class_of(value: int) -> int:
    """The least integer that counts with this one."""
    shift = max(0, value.bit_length() - _BITS) if value >= EXACT else 0
    return value >> shift << shift


def _describe(
    ranked: Iterable[tuple[float, int]], count: int, mean: float, bounds: tuple[float, float]
) -> Spread:
    least, greatest = bounds
    ranks = {f"p{percent}": -(-count * percent // 100) for percent in _PERCENTS}
    found: dict[str, float] = {}
    histogram = [0] * (BINS if greatest > least else 1)
    seen = 0
    for value, times in ranked:
        seen += times
        found |= {name: value for name, rank in ranks.items() if name not in found and seen >= rank}
        at = int((value - least) / (greatest - least) * BINS) if greatest > least else 0
        histogram[min(at, len(histogram) - 1)] += times
    return _as_spread({"mean": mean, "min": least, "max": greatest, **found}, count, histogram)


def _as_spread(figures: Mapping[str, float], count: int, histogram: list[int]) -> Spread:
    whole = {name: _plain(value) for name, value in figures.items()}
    return {
        "count": count,
        "mean": whole["mean"],
        "min": whole["min"],
        "p5": whole["p5"],
        "p25": whole["p25"],
        "p50": whole["p50"],
        "p75": whole["p75"],
        "p95": whole["p95"],
        "p99": whole["p99"],
        "max": whole["max"],
        "histogram": histogram,
    }


def _plain(number: float) -> float:
    """Without the point where it says nothing: 5, not 5.0."""
    return int(number) if float(number).is_integer() and abs(number) < 2**53 else rounded(number)
