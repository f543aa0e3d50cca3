"""Starting the processes that copy run records to trackers (`forwarder`)."""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from plumbline.files import STATE_DIR
from plumbline.tracking.trackers import Tracker

RUNS = STATE_DIR / "runs"

_LOG_BYTES = 2**20

_logger = logging.getLogger(__name__)


def ensure_forwarders(root: Path, trackers: Mapping[str, Tracker]) -> None:
    """Start what copies records to each tracker, unless it is at work for `root`."""
    for name, tracker in trackers.items():
        ensure_forwarder(root, name, tracker)


def ensure_forwarder(root: Path, name: str, tracker: Tracker) -> int | None:
    """Start the process that copies records to a tracker, unless one is at work for `root`.

    Call it when the record's file is there: a forwarder that is about to end looks once more for
    files after it has given its lock back. Takes milliseconds and imports nothing.

    Returns:
        The pid of the new process; None when one is at work, or when none could be started.
    """
    try:
        with (root / tracker.lock).open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if lacking := tracker.missing():
            _logger.warning("tracker %s: %s; the records wait for it in %s", name, lacking, RUNS)
            return None
        return _spawn_forwarder(root, name, tracker)
    except BlockingIOError:
        return None
    except OSError as error:
        _logger.warning("%s gets no copy of this run (%s); its record is kept", name, error)
        return None


def _spawn_forwarder(root: Path, name: str, tracker: Tracker) -> int:
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    log = root / tracker.log
    full = log.exists() and log.stat().st_size > _LOG_BYTES
    # -P: nothing that lies in the working folder is imported by accident.
    command = [sys.executable, "-P", "-m", "plumbline.tracking.forwarder"]
    with log.open("wb" if full else "ab") as output:
        process = subprocess.Popen(
            [*command, "--root", str(root.resolve()), "--tracker", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=root,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is not for it
            close_fds=True,
        )
    # It outlives the stage on purpose; unset, the interpreter warns of a child left running.
    process.returncode = 0
    return process.pid
