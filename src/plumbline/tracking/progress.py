"""How far work is: a live bar on a terminal; elsewhere a line from time to time.

Work that is over before the first line is due says nothing.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

Update = Callable[[int, str], None]
"""(units done, a note such as the loss of the last step)."""

INTERVAL_S = 30.0
"""Between two lines; of long work a sixtieth of its time, or a night would fill the log."""

logger = logging.getLogger(__name__)

_shown: list[str] = []
"""The work that is shown now; what is a part of it shows nothing of its own."""


class ProgressLines:
    """Decides when a line is due, and what it says."""

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        """Begin to count; `total` is None where nobody knows it before the end."""
        self._what, self._total, self._unit = what, total, unit
        self._clock, self._say = clock, say
        self._began = clock()
        self._due = self._began + INTERVAL_S
        self._first: int | None = None

    def __call__(self, done: int, note: str = "") -> None:
        """Hear of the units done; the first call tells what an earlier run had done."""
        if self._first is None:
            self._first = done
            return
        now = self._clock()
        if now < self._due:
            return
        elapsed = now - self._began
        self._due = now + max(INTERVAL_S, elapsed / 60)
        self._say(self._line(done, (done - self._first) / max(elapsed, 1e-9), note))

    def _line(self, done: int, rate: float, note: str) -> str:
        words = [f"{done:,} {self._unit}", f"{_rate(rate)} {self._unit}/s"]
        if self._total is not None:
            share = f"{100 * done / max(self._total, 1):.0f} %"
            words[0] = f"{done:,} of {self._total:,} {self._unit} ({share})"
            left = duration((self._total - done) / rate) if rate else "?"
            words.append(f"{left} left")
        return f"{self._what}: {', '.join([*words, note] if note else words)}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Say a time as one would.

    >>> duration(8.4), duration(200), duration(9000)
    ('8 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def progress(what: str, total: int | None, unit: str, *, quiet: bool = False) -> Iterator[Update]:
    """Show how far the block is, on stderr."""
    if quiet or _shown:
        yield lambda done, note: None
        return
    _shown.append(what)
    try:
        if sys.stderr.isatty():
            with _bar(what, total) as update:
                yield update
        else:
            yield ProgressLines(what, total, unit)
    finally:
        _shown.pop()


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    # It goes when the work is done: the stage says in a line what came of it.
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def tracked(
    items: Iterable[T],
    what: str,
    total: int | None,
    unit: str,
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """Hand on the items and show how far their user is; each counts as `size` units."""
    done = 0
    with progress(what, total, unit) as update:
        update(0, "")
        for item in items:
            yield item
            done += size(item)
            update(done, "")
