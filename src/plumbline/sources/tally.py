"""The account of what a source passes over or cannot use: the one place where it is counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline.text import shown

MAX_KINDS = 40
"""More kinds, such as endings of files, are counted together."""
FURTHER = "of further kinds"

FILES, ROWS, CELLS, MEMBERS = "files", "rows", "cells", "members"
"""What is counted; members are files within an archive."""


@dataclass
class Seen:
    """How often something was seen."""

    first: str
    """Where it was seen first: a file, a row or a line."""
    remedy: str
    count: int = 0


@dataclass
class Tally:
    """Counts by kind; a kind is what is counted, and what is the matter with it."""

    kinds: dict[tuple[str, str], Seen] = field(default_factory=dict)

    def add(self, unit: str, what: str, where: str, remedy: str = "") -> None:
        """Count one; `where` and `remedy` are remembered for the first of its kind."""
        what, where = shown(what), shown(where)  # names of files may be no text
        if (unit, what) not in self.kinds and len(self.kinds) >= MAX_KINDS:
            what = FURTHER
        self.kinds.setdefault((unit, what), Seen(where, remedy)).count += 1

    def absorb(self, later: "Tally") -> None:
        """Count what another one has met after this one."""
        for (unit, what), seen in later.kinds.items():
            if (unit, what) not in self.kinds and len(self.kinds) >= MAX_KINDS:
                what = FURTHER
            self.kinds.setdefault((unit, what), Seen(seen.first, seen.remedy)).count += seen.count

    @property
    def units(self) -> list[str]:
        """What was counted."""
        return list(dict.fromkeys(unit for unit, _ in self.kinds))

    def count(self, unit: str) -> int:
        """How many of a unit were counted."""
        return sum(seen.count for (kind, _), seen in self.kinds.items() if kind == unit)

    def lines(self) -> list[str]:
        """A line for each kind: how many, what, the first of them, and the remedy."""
        return [
            f"{seen.count} {unit} {what}, the first: {seen.first}"
            + (f"; {seen.remedy}" if seen.remedy else "")
            for (unit, what), seen in self.kinds.items()
        ]

    def account(self) -> list[dict[str, object]]:
        """The same as JSON types."""
        return [
            {
                "unit": unit,
                "what": what,
                "count": seen.count,
                "first": seen.first,
                "remedy": seen.remedy,
            }
            for (unit, what), seen in self.kinds.items()
        ]


def merged(tallies: Mapping[str, Tally]) -> Tally:
    """One tally of several by name: the place of the first says whose it was."""
    whole = Tally()
    for name, tally in tallies.items():
        for (unit, what), seen in tally.kinds.items():
            where = f"{name}: {seen.first}"
            one = whole.kinds.setdefault((unit, what), Seen(where, seen.remedy))
            one.count += seen.count
    return whole


def ending_of(name: str) -> str:
    """The ending of a file's name, for an account: `.JPG`, or `none`."""
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending}" if stem and dot and len(ending) <= 8 else "none"
