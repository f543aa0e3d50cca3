"""The space of a sweep as Optuna's distributions, and its points as overrides."""

import itertools
import math
from collections.abc import Mapping, Sequence

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from plumbline.sweep.config import Dimension
from plumbline.sweep.overrides import to_text

Space = Mapping[str, Dimension]
Value = str | float
Parameters = dict[str, Value]
"""Key of the space to Optuna's value: a number, or the text of a choice."""

_MOST = 100_000
"""Spaces with more points than this count as endless."""
_DIGITS = 4
"""Significant digits of a number drawn from a range without steps."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What Optuna draws from, by key. Choices are drawn as texts: a list is a choice too."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution([to_text(value) for value in dimension.choice])
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.integer:
        first, last, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(first, last, log=dimension.log, step=step)
    return FloatDistribution(
        dimension.low, _last(dimension), log=dimension.log, step=dimension.step
    )


def _last(dimension: Dimension) -> float:
    """The greatest value: `high`, or the last step below it."""
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.step is None:
        return dimension.high
    return _stepped(dimension, _steps(dimension) - 1)


def _steps(dimension: Dimension) -> int:
    assert dimension.low is not None
    assert dimension.high is not None
    step = dimension.step or 1.0
    # The slack takes back what division loses: 0.1 to 0.7 by 0.1 has seven values.
    return math.floor((dimension.high - dimension.low) / step + 1e-9) + 1


def _stepped(dimension: Dimension, number: int) -> float:
    assert dimension.low is not None
    return float(f"{dimension.low + number * (dimension.step or 1.0):.12g}")


def values(dimension: Dimension) -> Sequence[Value] | None:
    """All values of a dimension as Optuna has them; None where there is no end of them."""
    if dimension.choice is not None:
        return [to_text(value) for value in dimension.choice]
    if dimension.step is None and not dimension.integer:
        return None
    if (count := _steps(dimension)) > _MOST:
        return None
    numbers = [_stepped(dimension, number) for number in range(count)]
    return [int(number) for number in numbers] if dimension.integer else numbers


def ends(dimension: Dimension) -> list[str]:
    """Texts of the values whose validity tells that of the others: all choices, or both ends."""
    if dimension.choice is not None:
        return [to_text(value) for value in dimension.choice]
    assert dimension.low is not None
    return [_text(dimension, value) for value in (dimension.low, _last(dimension))]


def combinations(space: Space) -> list[Parameters] | None:
    """All points in the order of the file, the last key fastest; None where they are endless."""
    listed = []
    for dimension in space.values():
        of_one = values(dimension)
        if of_one is None:
            return None
        listed.append(of_one)
    if math.prod(map(len, listed)) > _MOST:
        return None
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*listed)]


def to_overrides(space: Space, parameters: Parameters) -> tuple[str, ...]:
    """The overrides of a point, in the order of the file."""
    return tuple(f"{key}={_text(space[key], parameters[key])}" for key in space)


def _text(dimension: Dimension, value: Value) -> str:
    if dimension.choice is not None:
        return str(value)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.integer:
        return str(int(value))
    if dimension.step is not None:
        return to_text(float(f"{value:.12g}"))
    # Rounded, so that names, tables and the winner's file can be read; never out of the range.
    short = float(f"{value:.{_DIGITS}g}")
    return to_text(min(max(short, dimension.low), dimension.high))
