"""MLflow's page on the runs of this project: `python -m plumbline.tracking.live_view`.

It serves the database of the checkout with one worker until Ctrl-C, says where, and how many run
records are not in it yet. These are copied meanwhile by a process of their own, with no less of the
machine than any other program has.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from plumbline.errors import ConfigError, PlumblineError
from plumbline.files import STATE_DIR
from plumbline.tracking.forwarder_state import waiting
from plumbline.tracking.mlflow_store import EXPERIMENT, address_of, open_store
from plumbline.tracking.run_store import without_credentials
from plumbline.tracking.trackers import TRACKERS
from plumbline.waiting import patient_lock

HOST = "127.0.0.1"
STARTUP_S = 120.0
"""In which the page has to answer."""

_TRACKER = TRACKERS["mlflow"]
_CREATION_S = 600.0
_POLL_S = 0.2
_END_S = 10.0


def say_what_waits(root: Path, address: str) -> int:
    """Say how many records the store has not had whole, and who copies them; their number."""
    count = len(waiting(root, _TRACKER, address))
    if not count:
        print("all run records are in it")
        return 0
    records = "1 run record is" if count == 1 else f"{count} run records are"
    who = _copier(root)
    doing = f"process {who} copies" if who else "nobody copies"
    print(f"{records} not in it yet; {doing} them ({_TRACKER.log})", flush=True)
    return count


def _copier(root: Path) -> str:
    """The pid of the process that copies records; "": there is none."""
    with (
        contextlib.suppress(FileNotFoundError),
        (root / _TRACKER.lock).open(encoding="utf-8") as lock,
    ):
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip() or "unknown"
    return ""


@contextmanager
def copying(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that copies what is there; it goes on behind the block, as one of a stage does."""
    command = [sys.executable, "-P", "-m", "plumbline.tracking.forwarder", "--once"]
    with (root / _TRACKER.log).open("ab") as log:
        process = subprocess.Popen(
            [*command, "--root", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the page; what is half copied is ended whole
        )
    yield process
    process.returncode = process.poll() or 0  # unset, the interpreter warns of a child left running


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def serving(root: Path, address: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server over a database, which answers when the block begins.

    Raises:
        ConfigError: the port is taken, or the server ended; its log says why.
    """
    if not _free(port):
        raise ConfigError(f"port {port} of {HOST} is taken: make mlflow PORT={port + 1}")
    log = root / STATE_DIR / "mlflow-server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", address, "--host", HOST, "--port", str(port)]
    # Its queues of jobs are processes that nobody here asks for.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(server, port, log)
        yield server
    finally:
        _end(server)


def _await(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + STARTUP_S
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        time.sleep(_POLL_S)
    why = "ended" if server.poll() is not None else f"has not answered within {STARTUP_S:.0f} s"
    raise ConfigError(f"mlflow server {why}; {log} says why")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server with the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main(arguments: Sequence[str]) -> None:
    """Serve until Ctrl-C; of a server of somebody's own, say its address alone.

    Raises:
        PlumblineError: the store cannot be opened or served.
    """
    parser = argparse.ArgumentParser(description=__doc__, prog="live_view")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--no-browser", action="store_true", help="say the address, open nothing")
    options = parser.parse_args(arguments)
    root: Path = options.root.resolve()
    (root / STATE_DIR).mkdir(exist_ok=True)
    address = address_of(root)
    with patient_lock(root / _TRACKER.store_lock, idle_s=_CREATION_S):
        experiment = open_store(address, root).experiment_id
    own = address.startswith(("http://", "https://"))
    page = f"{address if own else f'http://{HOST}:{options.port}'}/#/experiments/{experiment}/runs"
    with contextlib.ExitStack() as stack:
        copier = stack.enter_context(copying(root))
        server = None if own else stack.enter_context(serving(root, address, options.port))
        print(f"runs of {root.name} (experiment {EXPERIMENT}): {without_credentials(page)}")
        count = say_what_waits(root, address)
        if not options.no_browser:
            webbrowser.open(page)
        try:
            if copier.wait() or count:
                say_what_waits(root, address)
            if server is not None:
                print("Ctrl-C ends it", flush=True)
                server.wait()
        except KeyboardInterrupt:
            print("", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (PlumblineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
