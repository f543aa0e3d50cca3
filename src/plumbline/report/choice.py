"""Which predictions come to the page: spread over groups and samples, or the surest ones."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline.report.blocks import Shown
from plumbline.report.samples import Key
from plumbline.report.settings import MOST_SAMPLES

GROUPS = 64
"""Groups of which predictions are kept."""


def key_of(row: Mapping[str, object]) -> Key:
    """How a prediction names its sample."""
    for column in ("image", "audio", "sample_id", "sample"):
        value = row.get(column)
        if value is not None:
            named = value if isinstance(value, int) else str(value)
            return Key(column, named, str(row.get("part") or ""))
    return Key()


@dataclass
class Sample:
    """How many predictions of a sort there are, and the first ones, by group."""

    count: int = 0
    _by_group: dict[str, dict[Key, Shown]] = field(default_factory=dict)

    def offer(self, shown: Shown, group: str) -> None:
        """Count a prediction, and keep it while its group has room and its sample is new there."""
        self.count += 1
        known = group in self._by_group or len(self._by_group) < GROUPS
        kept = self._by_group.setdefault(group, {}) if known else {}
        if len(kept) < 2 * MOST_SAMPLES:
            kept.setdefault(shown.key, shown)

    def chosen(self, limit: int) -> list[Shown]:
        """Take one of each group in turn, a sample that is not yet shown where there is one."""
        groups = [list(kept.values()) for kept in self._by_group.values()]
        chosen: list[Shown] = []
        keys: set[Key] = set()
        while len(chosen) < limit and any(groups):
            for group in filter(None, groups):
                best = next((s for s in group if s.key not in keys), group[0])
                group.remove(best)
                keys.add(best.key)
                chosen.append(best)
        return chosen[:limit]


class Surest:
    """The predictions with the most confidence; of equal ones the first."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._heap: list[tuple[float, int, Shown]] = []
        self._offered = 0

    def offer(self, shown: Shown) -> None:
        """Keep a prediction if it has a confidence and is among the surest so far."""
        self._offered += 1
        if shown.confidence is None:
            return
        entry = (shown.confidence, -self._offered, shown)  # no two have the same second member
        if len(self._heap) < MOST_SAMPLES:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def chosen(self, limit: int) -> list[Shown]:
        """The surest first."""
        return [shown for _, _, shown in sorted(self._heap, reverse=True)][:limit]
