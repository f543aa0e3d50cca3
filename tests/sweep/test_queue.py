"""What is read of DVC's queue where its own entries contradict each other."""

from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.sweep.queue import DvcQueue, QueuedRun


def queue_of(monkeypatch: pytest.MonkeyPatch, **entries: list[tuple[str, str]]) -> DvcQueue:
    """A queue with entries (name, commit), without a project or workers."""

    def listed(state: str, wrap: bool = False) -> Any:
        found = [SimpleNamespace(name=n, stash_rev=r) for n, r in entries.get(state, [])]
        return lambda: [SimpleNamespace(entry=e) for e in found] if wrap else found

    queue = object.__new__(DvcQueue)
    queue._celery = SimpleNamespace(
        iter_queued=listed("queued"),
        iter_active=listed("active"),
        iter_failed=listed("failed", wrap=True),
    )
    monkeypatch.setattr(queue, "_workers", set)
    monkeypatch.setattr(queue, "_is_lost", lambda rev, workers: False)
    return queue


def test_of_a_name_queued_twice_the_entry_that_can_still_succeed_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = queue_of(monkeypatch, queued=[("s-1", "b" * 40)], failed=[("s-1", "a" * 40)])
    assert queue.unfinished() == {"s-1": QueuedRun("queued", "b" * 40)}


def test_a_run_that_moves_while_it_is_looked_at_has_its_last_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moving = [("s-1", "a" * 40)]
    queue = queue_of(monkeypatch, queued=moving, active=moving, failed=moving)
    assert queue.unfinished() == {"s-1": QueuedRun("failed", "a" * 40)}
