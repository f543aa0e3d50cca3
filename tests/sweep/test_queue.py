"""What is read of DVC's queue where its own entries contradict each other, or one was dropped."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plumbline.sweep.queue import DvcQueue, QueuedRun
from tests.sweep.toy import make_toy


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


def test_each_worker_is_started_on_the_gpus_of_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of(monkeypatch)
    queue._slots, queue._started = [3, "5,6", 7], -100.0
    monkeypatch.setattr(queue, "_workers", lambda: {4711: 1})
    started: list[tuple[str, Any]] = []

    def change(command: list[str], *, starts: bool, variables: dict[str, str]) -> tuple[int, str]:
        assert starts
        started.append((command[-1], variables))
        return 0, ""

    monkeypatch.setattr(queue, "_change", change)
    queue.start_workers(3)
    queue.start_workers(3)  # they are on their way
    assert started == [
        ("2", {"CUDA_VISIBLE_DEVICES": "5,6"}),
        ("3", {"CUDA_VISIBLE_DEVICES": "7"}),
    ]


def drop(project: Path) -> None:
    """Leave the one queued run as a worker does that takes it while it is being shut down."""
    celery = project / ".dvc/tmp/exps/celery"
    (message,) = (celery / "broker/in").glob("*.celery.msg")
    task = json.loads(message.read_text(encoding="utf-8"))["headers"]["id"]
    message.rename(celery / "broker/processed" / message.name)
    result = {"status": "FAILURE", "result": None, "traceback": None, "task_id": task}
    (celery / "result" / f"celery-task-meta-{task}").write_text(
        json.dumps(result), encoding="utf-8"
    )


@pytest.mark.slow
def test_a_run_that_a_worker_dropped_leaves_room_for_another_of_its_name(tmp_path: Path) -> None:
    make_toy(tmp_path, "")
    queue = DvcQueue(tmp_path)
    for _ in range(2):
        queue.submit("s-1", ["x=0.5"], ["score"])
        assert queue.unfinished()["s-1"].state == "queued"
        drop(tmp_path)
        dropped = queue.unfinished()["s-1"]
        assert dropped.state == "failed"
        assert queue.failure(dropped.rev) is None
        queue.discard("s-1", dropped)
        assert queue.unfinished() == {}
