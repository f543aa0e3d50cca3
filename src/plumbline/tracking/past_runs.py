"""What the records of earlier runs say of each stage, newest first.

A record may belong to a stage that runs now, or to one that was killed: its lock tells (`record`).
"""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.tracking.events import read_events, step_of
from plumbline.tracking.forwarders import RUNS

STATUSES = ("ok", "failed", "running", "killed")

_TAIL_BYTES = 1 << 14
"""Of a record's end: its last event is short, and a training has one for every step."""


@dataclass(frozen=True)
class PastRun:
    """One run of a stage."""

    stage: str
    """With its key: `finetune@vqa`."""
    pipeline: str
    """The name that all stages of one pipeline run share, which begins with its time (UTC)."""
    status: str
    """One of `STATUSES`; killed: it has no end, and its process is gone."""
    seconds: float | None
    """How long it ran; None while it runs and where it was killed."""
    error: str | None
    path: Path

    def last_step(self) -> int | None:
        """The last optimiser step that it recorded; None before the first, and without steps."""
        steps = [step_of(event) for event, _ in read_events(self.path, 0) if "step" in event]
        return max(steps, default=None)


def newest_runs(root: Path, *, status: str | None = None) -> dict[str, PastRun]:
    """The newest run of each stage, by its name with key.

    Args:
        root: the project.
        status: only runs that ended so.
    """
    found: dict[str, PastRun] = {}
    wanted = (status,) if status else STATUSES
    for folder in sorted((root / RUNS).glob("[!.]*"), reverse=True):
        for path in sorted(folder.glob("*.jsonl"), key=lambda path: -path.stat().st_mtime_ns):
            stage = _stage_of(path)
            if stage and stage not in found and (run := _read(path, stage)).status in wanted:
                found[stage] = run
    return found


def _stage_of(path: Path) -> str:
    """The stage with its key, as the first event of a record says; "" where that is broken."""
    first, _ = next(read_events(path, 0), ({}, 0))
    return "@".join(str(first[part]) for part in ("stage", "key") if first.get(part))


def _read(path: Path, stage: str) -> PastRun:
    end = _last_event(path)
    seconds = end.get("seconds")
    error = end.get("error")
    status = str(end["status"]) if end.get("event") == "end" else _without_end(path)
    return PastRun(
        stage,
        path.parent.name,
        status,
        float(seconds) if isinstance(seconds, int | float) else None,
        error if isinstance(error, str) else None,
        path,
    )


def _without_end(path: Path) -> str:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "running"
    return "killed"


def _last_event(path: Path) -> Mapping[str, object]:
    """The last whole line; nothing where it is broken."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().splitlines()
    try:
        event = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}
