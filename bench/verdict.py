"""Whether ratios to a peer have changed: the median of runs in turn against those that are kept."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SLOWER = 1.2
"""The slowdown that has to be found: ours takes a fifth more than it did beside the same peer."""
ALARM = 1.1
"""Halfway, in logarithms: as far from no change as from what has to be found."""
SURE = 2.5
"""Standard errors that lie between a change of the median and none, at least."""


@dataclass(frozen=True)
class Verdict:
    """What was found of a change."""

    word: Literal["slower", "unchanged", "unclear"]
    change: float
    """How many times as long as before ours takes, beside the peer."""
    error: float
    """Of the logarithm of that: one standard error."""


def judge(before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Compare ratios ours / peer, of runs before and after a change.

    Each ratio is of one run, in which both were timed in turn, so what other processes do to the
    machine is in both. The medians of logarithms are compared, since ratios multiply and single
    runs lie far off. `slower` is a change of at least `ALARM` that `SURE` standard errors do not
    explain; where the spread is so wide that `SLOWER` could hide in it the word is `unclear`, and
    more runs are needed.

    Args:
        before: at least 3 positive ratios, of the kept runs.
        after: as many, or other in number.

    Raises:
        ValueError: there are fewer than 3, or one is not positive.

    Source: standard error of a median from the median absolute deviation, 1.2533 * 1.4826 * MAD /
    sqrt(n), as for a normal distribution (Rousseeuw and Croux 1993).
    """
    logs = [[math.log(_positive(ratio)) for ratio in ratios] for ratios in (before, after)]
    if min(map(len, logs)) < 3:
        raise ValueError("at least 3 runs before and 3 after")
    middles = [statistics.median(each) for each in logs]
    error = math.hypot(*(_error_of_median(each) for each in logs))
    change = middles[1] - middles[0]
    alarm = max(math.log(ALARM), SURE * error)
    if change >= alarm:
        return Verdict("slower", math.exp(change), error)
    hidden = change + SURE * error >= math.log(SLOWER) and alarm > math.log(ALARM)
    return Verdict("unclear" if hidden else "unchanged", math.exp(change), error)


def _positive(ratio: float) -> float:
    if not ratio > 0:
        raise ValueError(f"a ratio of {ratio}")
    return ratio


def _error_of_median(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    return 1.2533 * 1.4826 * deviation / math.sqrt(len(values))
