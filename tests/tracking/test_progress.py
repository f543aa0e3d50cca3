"""A bar on a terminal; elsewhere lines at an interval, with total, rate and time left."""

import io
import logging
import sys

import pytest

from plumbline.tracking import progress as module
from plumbline.tracking.progress import ProgressLines, duration, progress, tracked


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_at(seconds: list[float], total: int | None = 1000, first: int = 0) -> list[str]:
    """What is said of work that makes 4 units a second, heard of at these times."""
    clock, said = Clock(), list[str]()
    update = ProgressLines("training", total, "steps", clock, said.append)
    update(first, "")
    for at in seconds:
        clock.now = 100.0 + at
        update(first + int(4 * at), "loss 0.500")
    return said


def test_a_line_has_total_share_rate_time_left_and_note() -> None:
    assert lines_at([30.0]) == [
        "training: 120 of 1,000 steps (12 %), 4 steps/s, 3 min 40 s left, loss 0.500"
    ]


def test_what_an_earlier_run_did_is_no_rate_of_this_one() -> None:
    assert lines_at([30.0], first=400) == [
        "training: 520 of 1,000 steps (52 %), 4 steps/s, 2 min 0 s left, loss 0.500"
    ]


def test_without_a_total_there_is_no_time_left() -> None:
    assert lines_at([40.0], total=None) == ["training: 160 steps, 4 steps/s, loss 0.500"]


def test_short_work_says_nothing_and_long_work_ever_less_often() -> None:
    assert lines_at([float(s) for s in range(30)]) == []
    assert len(lines_at([float(s) for s in range(601)])) == 20
    day = lines_at([float(s) for s in range(24 * 3600)], total=10**6)
    # 60 in the first half hour, then each a sixtieth later: 60 * (1 + log(1440 / 30)) in a day.
    assert 285 < len(day) < 300


def test_work_that_stands_still_has_no_time_left() -> None:
    clock, said = Clock(), list[str]()
    update = ProgressLines("reading", 10, "rows", clock, said.append)
    update(0, "")
    clock.now += 60
    update(0, "")
    assert said == ["reading: 0 of 10 rows (0 %), 0 rows/s, ? left"]


def test_tracked_items_are_handed_on_and_counted_when_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)
    used = tracked([[1, 2], [3]], "reading", 3, "rows", len)
    assert next(used) == [1, 2]
    assert caplog.messages == []
    assert list(used) == [[3]]
    assert [line.split(" (")[0] for line in caplog.messages] == [
        "reading: 2 of 3 rows",
        "reading: 3 of 3 rows",
    ]


def test_without_a_terminal_short_work_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("training", 10, "steps") as update:
        update(0, "")
        update(3, "loss 0.5")
    assert stderr.getvalue() == ""


def test_a_terminal_shows_steps_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("training", 10, "steps") as update:
        update(0, "")
        update(3, "loss 0.512")
    assert "3/10" in stderr.getvalue()
    assert "loss 0.512" in stderr.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.4, "8 s"), (59.6, "1 min 0 s"), (3599.4, "59 min 59 s"), (9000, "2 h 30 min")],
)
def test_a_time_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
