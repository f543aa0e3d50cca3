"""Waits for other processes, each with a limit and a line that says what to do."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plumbline.errors import OutputError
from plumbline.files import exclusive_lock

COMMAND_TIMEOUT = "PLUMBLINE_COMMAND_TIMEOUT_S"
"""Environment variable: seconds for which a command of Git, DVC or Python may run."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a stage to stop."""

_COMMAND_S = 3600.0
_POLL_S = 0.2


@contextmanager
def patient_lock(path: Path, *, idle_s: float) -> Iterator[None]:
    """`exclusive_lock`, waiting for its holder as long as that one gets on.

    Args:
        path: the lock file; its holder touches it at least so often.
        idle_s: for how long it may leave it alone.

    Raises:
        OutputError: the holder stands still, or the place of the file cannot be written.
    """
    with ExitStack() as stack:
        touched, since = 0, time.monotonic()
        while True:
            try:
                stack.enter_context(exclusive_lock(path))
                break
            except BlockingIOError as held:
                holder = str(held)
            if (now := path.stat().st_mtime_ns) != touched:
                touched, since = now, time.monotonic()
            if time.monotonic() - since > idle_s:
                raise OutputError(
                    f"{path}: held by the process {holder}, which has not got on for "
                    f"{idle_s:.0f} s; end it (kill -9 {holder}) and run again"
                )
            time.sleep(_POLL_S)
        yield


def run_command(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said, as UTF-8 text whatever the locale.

    The arguments are those of `subprocess.run`.

    Raises:
        OutputError: it did not end in the time that `PLUMBLINE_COMMAND_TIMEOUT_S` allows.
    """
    limit = command_timeout_s()
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,  # what asks for a password would wait for ever
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
            preexec_fn=preexec_fn,
        )
    except subprocess.TimeoutExpired:
        raise OutputError(too_long(command, limit)) from None


def command_timeout_s() -> float:
    """Seconds for which a command may run."""
    return float(os.environ.get(COMMAND_TIMEOUT, _COMMAND_S))


def too_long(command: Sequence[str], limit_s: float) -> str:
    """The line about a command that was ended."""
    return (
        f"{' '.join(command[:4])}: not done after {limit_s:.0f} s, and ended; look what it waits "
        f"for (a disk, a network, a lock), or set {COMMAND_TIMEOUT} higher"
    )
