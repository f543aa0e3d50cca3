"""How far the records of a checkout have been copied, kept in a file for each tracker."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from plumbline.files import digest_of, write_json
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.run_store import place_of
from plumbline.tracking.trackers import Tracker


@dataclass
class RecordProgress:
    """How far one record has been copied."""

    offset: int = 0  # bytes
    run: str | None = None
    status: str | None = None  # None while it goes on; else ok, failed, killed or rejected
    end_ms: int = 0


@dataclass
class PipelineProgress:
    """The parent run of one pipeline."""

    run: str
    closed: bool = False


class RecordState(TypedDict):
    """A `RecordProgress` as plain data."""

    offset: int
    run: str | None
    status: str | None
    end_ms: int


class PipelineState(TypedDict):
    """A `PipelineProgress` as plain data."""

    run: str
    closed: bool


class StoreState(TypedDict):
    """What the file holds of one store."""

    records: dict[str, RecordState]
    pipelines: dict[str, PipelineState]


@dataclass
class Progress:
    """What has reached one store; other stores have entries of their own in the same file."""

    path: Path
    store: str
    records: dict[str, RecordProgress] = field(default_factory=dict)
    pipelines: dict[str, PipelineProgress] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path, tracker: Tracker, address: str) -> "Progress":
        """Read the state of a store; an unreadable state is none: runs are found by their tag."""
        progress = cls(root / tracker.state, _key(address))
        place = place_of(address)
        if place and not (root / place).exists():
            return progress  # deleted: all records go into the new one
        with suppress(LookupError, TypeError, AttributeError):
            known = _read_state(progress.path)[progress.store]
            records = {k: RecordProgress(**v) for k, v in known["records"].items()}
            pipelines = {k: PipelineProgress(**v) for k, v in known["pipelines"].items()}
            runs = root / RUNS
            progress.records = {k: v for k, v in records.items() if (runs / k).exists()}
            if tracker.rewrites:
                # Of what is not done nobody knows how much is there: it is written from its start.
                progress.records = {k: v for k, v in progress.records.items() if v.status}
            progress.pipelines = {k: v for k, v in pipelines.items() if (runs / k).exists()}
        return progress

    def save(self) -> None:
        """Write the state atomically, keeping the entries of other stores."""
        mine = {
            "records": {key: asdict(value) for key, value in self.records.items()},
            "pipelines": {key: asdict(value) for key, value in self.pipelines.items()},
        }
        write_json(self.path, {**_read_state(self.path), self.store: mine})


def read_stores(root: Path, tracker: Tracker) -> dict[str, Mapping[str, Mapping[str, object]]]:
    """By store of a tracker, how far each record of the checkout in `root` has come there."""
    state = _read_state(root / tracker.state)
    return {name: entry.get("records", {}) for name, entry in state.items()}


def waiting(root: Path, tracker: Tracker, address: str) -> list[str]:
    """The records of which a store has not had all that is written."""
    known = read_stores(root, tracker).get(_key(address), {})
    found = []
    for path in sorted((root / RUNS).glob("*/*.jsonl")):
        name = path.relative_to(root / RUNS).as_posix()
        record = known.get(name, {})
        offset = record.get("offset", 0)
        if not record.get("status") and isinstance(offset, int) and offset < path.stat().st_size:
            found.append(name)
    return found


def _key(address: str) -> str:
    """The name of a store in the state: a digest, for addresses hold passwords."""
    return digest_of(address)[:16]


def _read_state(path: Path) -> dict[str, StoreState]:
    with suppress(OSError, ValueError):
        state = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
    return {}
