"""The process that copies run records to a tracker: `python -m plumbline.tracking.forwarder`.

A stage starts it when none is at work for checkout and tracker (`forwarders`). It follows the
records below `.plumbline/runs`, notes in a file how far each has been copied, and ends when there
has been nothing to do for `PLUMBLINE_FORWARDER_IDLE_S` seconds. What it cannot deliver stays where
it is and goes out the next time. One pipeline run becomes a parent run, each stage's record a child
of it.
"""

import argparse
import calendar
import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from plumbline.errors import ConfigError, PlumblineError
from plumbline.tracking.events import (
    mapping_of,
    metrics_of,
    read_events,
    start_tags,
    step_of,
    tags_of,
    time_ms,
)
from plumbline.tracking.forwarder_state import PipelineProgress, Progress, RecordProgress
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.run_store import (
    RECORD_TAG,
    Metric,
    RejectedError,
    RunStore,
    UnavailableError,
    as_text,
    describe,
    flatten,
)
from plumbline.tracking.trackers import TRACKERS, Tracker
from plumbline.waiting import patient_lock

_CREATION_S = 600.0

NICENESS = 5
"""Of the process that follows: beside a busy thread it has a quarter of their core, so the 4 CPU
seconds that MLflow takes to load and to make its database are over in 4 s and 12 more for each such
thread. At 19 it had 1.4 %, and on a busy machine nothing came for half an hour."""
POLL_S = 1.0
ATTEMPTS = 3
"""Failed attempts in a row after which nothing but a living stage keeps the forwarder going."""

_BATCH = 1000  # metrics sent and noted at once
_LONGEST_PAUSE_S = 30.0
_STATUS = {"ok": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

_UNANSWERED = "the tracker does not answer; the records wait in %s (%s)"

_logger = logging.getLogger("plumbline.forwarder")


class Forwarder:
    """Copies the records of one checkout to one store."""

    def __init__(
        self, root: Path, progress: Progress, open_run_store: Callable[[], RunStore]
    ) -> None:
        self._runs = root / RUNS
        self._progress = progress
        self._open = open_run_store
        self._opened: RunStore | None = None
        self._pending: list[Metric] = []
        self._seen = set(self._names())

    def connect(self) -> RunStore:
        """Open the store, once.

        Raises:
            UnavailableError: it does not answer.
        """
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def forward_pending(self) -> bool:
        """Copy every event that is there; return whether there was one.

        Raises:
            UnavailableError: the store does not answer; what is left goes out the next time.
        """
        # The newest pipeline first: it is the one that somebody watches.
        moved = False
        for name in sorted(self._unfinished(), reverse=True):
            try:
                moved |= self._copy(name)
            except FileNotFoundError:  # removed meanwhile, by plumbline gc
                self._progress.records[name].status = "rejected"
        return moved

    def close_pipelines(self) -> None:
        """End the parent runs whose records have all ended.

        Raises:
            UnavailableError: the store does not answer.
        """
        for pipeline, parent in self._progress.pipelines.items():
            if parent.closed:
                continue
            entries = self._progress.records.items()
            records = [entry for name, entry in entries if name.startswith(f"{pipeline}/")]
            statuses = {record.status for record in records}
            if None in statuses:
                continue
            worst = next((s for s in ("failed", "killed") if s in statuses), "ok")
            end_ms = max((record.end_ms for record in records), default=0)
            with _refusal_noted(pipeline):
                self.connect().set_status(parent.run, _STATUS[worst], end_ms)
            parent.closed = True
            self._progress.save()

    def has_live_writers(self) -> bool:
        """Whether a stage is still writing a record."""
        return any(_is_being_written(self._runs / name) for name in self._unfinished())

    def has_new_records(self) -> bool:
        """Whether records have come since the last look."""
        return not self._seen.issuperset(self._names())

    def _names(self) -> list[str]:
        return [path.relative_to(self._runs).as_posix() for path in self._runs.glob("*/*.jsonl")]

    def _unfinished(self) -> list[str]:
        records = self._progress.records
        names = self._names()
        self._seen.update(names)
        return [n for n in names if records.setdefault(n, RecordProgress()).status is None]

    def _copy(self, name: str) -> bool:
        """Make one pass over one record; return whether there was anything new in it."""
        path, record = self._runs / name, self._progress.records[name]
        before = seen = record.offset
        self._pending.clear()
        # Asked before reading: when the writer is gone, what is there is all there will be.
        alive = _is_being_written(path)
        for event, end in read_events(path, before):
            if event.get("event") == "metrics":
                self._pending += metrics_of(event, step_of(event))
            else:
                self._deliver(name, seen)
                self._handle(name, event)
            seen = end
            if len(self._pending) >= _BATCH or not self._pending:
                self._deliver(name, seen)
        self._deliver(name, seen)
        if not alive and record.status is None:
            self._end(name, "killed", round(path.stat().st_mtime * 1000))
        return record.offset != before or record.status is not None

    def _deliver(self, name: str, offset: int) -> None:
        """Send the metrics that wait, and note that the record is copied up to `offset`."""
        record = self._progress.records[name]
        if self._pending and record.run:
            with _refusal_noted(name):
                self.connect().log(record.run, metrics=self._pending)
        self._pending.clear()
        if record.offset != offset:
            record.offset = offset
            self._progress.save()

    def _handle(self, name: str, event: Mapping[str, object]) -> None:
        run, kind = self._progress.records[name].run, event.get("event")
        with _refusal_noted(name):
            if kind == "start":
                self._start(name, event)
            elif kind == "facts" and run:
                metrics, tags = metrics_of(event, 0, "facts/"), tags_of(event)
                self.connect().log(run, metrics=metrics, tags=tags)
            elif kind == "artifact" and run:
                self.connect().log_artifact(run, Path(str(event["path"])))
            elif kind == "end":
                values = {"seconds": event.get("seconds"), "error": event.get("error")}
                self._handle(name, {"event": "facts", "time": event.get("time"), "values": values})
                self._end(name, "ok" if event.get("status") == "ok" else "failed", time_ms(event))

    def _start(self, name: str, event: Mapping[str, object]) -> None:
        pipeline, tags = name.partition("/")[0], start_tags(event)
        parent = self._open_parent(pipeline, tags, time_ms(event))
        tags[RECORD_TAG] = f"{tags.get('host', '')}:{name}"
        run = self.connect().open_run(tags["dvc.stage"], tags, time_ms(event), parent)
        with _refusal_noted(name):
            settings = flatten(mapping_of(event, "config"))
            self.connect().log(run, params={key: as_text(value) for key, value in settings})
        self._progress.records[name].run = run

    def _open_parent(self, pipeline: str, tags: Mapping[str, str], start_ms: int) -> str:
        parent = self._progress.pipelines.get(pipeline)
        if parent is None:
            own = {key: tags[key] for key in ("git.commit", "dvc.exp", "host") if key in tags}
            own[RECORD_TAG] = f"{tags.get('host', '')}:{pipeline}"
            start_ms = _start_of_pipeline(pipeline) or start_ms
            run = self.connect().open_run(pipeline, own, start_ms, None)
            parent = self._progress.pipelines[pipeline] = PipelineProgress(run)
        elif parent.closed:  # the forwarder had ended between two stages that lie far apart
            self.connect().set_status(parent.run, "RUNNING", None)
            parent.closed = False
        return parent.run

    def _end(self, name: str, status: str, end_ms: int) -> None:
        record = self._progress.records[name]
        if record.run:
            with _refusal_noted(name):
                self.connect().set_status(record.run, _STATUS[status], end_ms)
        record.status = status if record.run else "rejected"
        record.end_ms = end_ms
        _logger.info("%s: %s", name, record.status)
        self._progress.save()


@contextmanager
def _refusal_noted(name: str) -> Iterator[None]:
    """Go on without the one thing that the store refuses: it would refuse it again."""
    try:
        yield
    except RejectedError as error:
        _logger.warning("%s: the tracker refuses a part of it (%s)", name, error)


def _is_being_written(path: Path) -> bool:
    """Whether the record's writer lives: it holds the lock of its file, and nobody else does."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start_of_pipeline(pipeline: str) -> int | None:
    """The start that a pipeline's name tells, in ms since 1970."""
    with suppress(ValueError):
        return calendar.timegm(time.strptime(pipeline[:15], "%Y%m%d-%H%M%S")) * 1000
    return None


def follow(
    forwarder: Forwarder,
    idle_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Forward until no stage writes and nothing has come for `idle_s` seconds.

    Returns:
        Whether all was delivered; False when the store stayed away after the last stage's end.
    """
    last, failures = clock(), 0
    while True:
        try:
            moved = forwarder.forward_pending()
            failures = 0
            if moved or forwarder.has_live_writers():
                last = clock()
            elif clock() - last >= idle_s:
                forwarder.close_pipelines()
                return True
            pause = POLL_S
        except UnavailableError as error:
            failures += 1
            pause = min(2.0**failures, _LONGEST_PAUSE_S)
            if failures == 1:
                _logger.warning(_UNANSWERED, RUNS, error)
            if failures >= ATTEMPTS and not forwarder.has_live_writers():
                return False
        sleep(pause)


def forward_once(forwarder: Forwarder) -> bool:
    """Forward what is there; return whether all was delivered."""
    try:
        forwarder.connect()
        forwarder.forward_pending()
        forwarder.close_pipelines()
    except UnavailableError as error:
        _logger.warning(_UNANSWERED, RUNS, error)
        return False
    return True


@contextmanager
def _single_instance(lock: Path) -> Iterator[bool]:
    """Yield whether this is the only forwarder of checkout and tracker."""
    with lock.open("a+", encoding="utf-8") as file:
        for _ in range(20):  # a stage that looks whether one is at work holds it for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            yield False
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def _step_back() -> None:
    """Let stages go first, by a share that still brings the records within a minute or two."""
    os.nice(NICENESS)
    # With autogroups, as on desktops, niceness counts only within the session: ours is our own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICENESS), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Forward once or follow; the exit code is 0 when all was delivered."""
    parser = argparse.ArgumentParser(description=__doc__, prog="forwarder")
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("DVC_ROOT") or "."))
    parser.add_argument("--tracker", default="mlflow", help=", ".join(TRACKERS))
    parser.add_argument("--once", action="store_true", help="forward what is there, then end")
    options = parser.parse_args(arguments)
    root: Path = options.root.resolve()
    tracker = TRACKERS[options.tracker]
    if lacking := tracker.missing():
        raise ConfigError(f"tracker {options.tracker}: {lacking}")
    if not options.once:
        _step_back()
    return copy_records(root, tracker, once=options.once)


def copy_records(root: Path, tracker: Tracker, *, once: bool) -> int:
    """Copy the records of a checkout to a tracker, what is there or what comes.

    Returns:
        0 when all was delivered, or when another process is at it.
    """
    address, open_store = tracker.address_of(root), tracker.open_store
    (root / RUNS).mkdir(parents=True, exist_ok=True)

    def open_run_store() -> RunStore:
        with patient_lock(root / tracker.store_lock, idle_s=_CREATION_S):
            return open_store(address, root)

    while True:
        with _single_instance(root / tracker.lock) as alone:
            if not alone:
                # Who called may open the database: let it be complete.
                with patient_lock(root / tracker.store_lock, idle_s=_CREATION_S):
                    return 0
            progress = Progress.load(root, tracker, address)
            forwarder = Forwarder(root, progress, open_run_store)
            idle_s = float(os.environ.get("PLUMBLINE_FORWARDER_IDLE_S", "20"))
            done = forward_once(forwarder) if once else follow(forwarder, idle_s)
        # A stage that started just now has seen the lock and relies on this forwarder.
        if not forwarder.has_new_records():
            return 0 if done else 1


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr
    )
    try:
        sys.exit(main(sys.argv[1:]))
    except (PlumblineError, OSError) as error:
        _logger.error("%s", describe(error))
        sys.exit(1)
