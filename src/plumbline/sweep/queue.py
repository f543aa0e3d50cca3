"""The DVC queue, as a sweep needs it: the one module that touches DVC's objects.

Commands change the queue, as a user would; its state is read in this process, since a `dvc queue
status` for every look would cost more than the runs of a small sweep.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

import dvc.api
import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo

from plumbline.errors import ConfigError, OutputError, PlumblineError
from plumbline.files import STATE_DIR
from plumbline.reproduction.lock import LOCK, read_lock
from plumbline.waiting import command_timeout_s, run_command, too_long

RunState = Literal["queued", "running", "failed", "lost"]

_SETTLE_S = 60.0
"""How long a worker may prepare or collect a run before it is asked whether it has it."""
_QUEUEING_S = 300.0
_START_EVERY_S = 5.0
_ATTEMPTS = 20
_LOG_BYTES = 20_000


@dataclass(frozen=True)
class QueuedRun:
    """A run that DVC's queue knows and that has not succeeded."""

    state: RunState
    rev: str
    """The commit that holds the queued experiment."""


class _Entry(Protocol):
    name: str
    stash_rev: str


class _Done(Protocol):
    entry: _Entry


class _Process(Protocol):
    pid: int
    returncode: int | None
    stdout: str | None


class _Processes(Protocol):
    def get(self, rev: str) -> _Process | None: ...

    def __setitem__(self, rev: str, process: _Process) -> None: ...


class _CeleryQueue(Protocol):
    """The queue as DVC, whose code has no types, holds it."""

    wdir: str
    proc: _Processes

    def iter_queued(self) -> Iterator[_Entry]: ...

    def iter_active(self) -> Iterator[_Entry]: ...

    def iter_failed(self) -> Iterator[_Done]: ...

    def kill(self, revs: Collection[str]) -> None: ...

    def worker_status(self) -> Mapping[str, Sequence[object]]: ...


class DvcQueue:
    """Experiments of one project."""

    def __init__(self, root: Path, slots: Sequence[int | str] = ()) -> None:
        """Open the queue of the project in `root`; of `slots` see `SweepConfig`."""
        self._root, self._slots = root, slots
        self._celery: _CeleryQueue = Repo(str(root)).experiments.celery_queue
        self._seen_without_process: dict[str, float] = {}
        self._started = -_START_EVERY_S
        state = root / STATE_DIR / "sweeps"
        state.mkdir(parents=True, exist_ok=True)
        self._lock, self._log = state / "queueing.lock", state / "queue.log"
        # Stages run `python` from PATH in a folder of their own: the entry must be absolute.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}

    def unfinished(self) -> dict[str, QueuedRun]:
        """What is queued, runs, failed or was lost with its worker, by name."""
        queue = self._celery
        found: dict[str, QueuedRun] = {}
        workers = self._workers()
        try:
            # In the order in which runs move, later states last: none is missed on its way.
            for entry in queue.iter_queued():
                found[entry.name] = QueuedRun("queued", entry.stash_rev)
            for entry in queue.iter_active():
                lost = self._is_lost(entry.stash_rev, workers)
                found[entry.name] = QueuedRun("lost" if lost else "running", entry.stash_rev)
            for done in queue.iter_failed():
                name, rev = done.entry.name, done.entry.stash_rev
                # Of a name that was queued twice the one that is still under way counts.
                if name not in found or found[name].rev == rev:
                    found[name] = QueuedRun("failed", rev)
        except DvcException as error:
            raise OutputError(
                f"the DVC queue cannot be read ({error}); dvc queue remove --success clears it"
            ) from None
        return found

    def succeeded(self, baseline: str) -> dict[str, str]:
        """Name to commit of a baseline's experiments: DVC makes these references on success."""
        prefix = f"refs/exps/{baseline[:2]}/{baseline[2:]}/"
        listed = git(self._root, "for-each-ref", "--format=%(objectname) %(refname)", prefix)
        pairs = (line.split(" ", 1) for line in listed.splitlines())
        return {name.removeprefix(prefix): commit for commit, name in pairs}

    def submit(self, name: str, overrides: Sequence[str], targets: Sequence[str]) -> None:
        """Queue one experiment.

        Raises:
            PlumblineError: DVC refuses it; the text is DVC's.
        """
        command = ["dvc", "exp", "run", "--queue", "--quiet", "--name", name]
        for override in overrides:
            command += ["--set-param", override]
        for _ in range(_ATTEMPTS):
            code, text = self._change([*command, *targets])
            if code == 0 or "conflicts with existing experiment" in text:
                return
            if not re.search(r"\block\b|is busy", text, re.IGNORECASE):
                break
            time.sleep(1.0)
            if name in self.unfinished():
                return  # DVC was refused the lock only after it had queued the run
        raise PlumblineError(f"{name}: DVC does not queue it ({_last_error(text)})")

    def stop(self, name: str) -> None:
        """Interrupt a run, as Ctrl-C would; one that has just ended is left as it is."""
        self._change(["dvc", "queue", "kill", name])

    def discard(self, name: str, run: QueuedRun) -> None:
        """Take a run that is queued, failed or lost out of the queue, so that its name is free."""
        if run.state == "lost":
            self._declare_failed(name, run.rev)
        # By its commit, since DVC takes a name for its newest entry. Of a run that failed before it
        # began DVC removes what it had stored at first, and the entry only when asked again.
        for _ in range(2):
            self._change(["dvc", "queue", "remove", run.rev])
            left = self.unfinished().get(name)
            if left is None or left.rev != run.rev:
                return

    def _declare_failed(self, name: str, rev: str) -> None:
        # DVC signals the process group of the recorded pid unless an exit code is on record: that
        # pid may be another process by now.
        if (process := self._celery.proc.get(rev)) and process.returncode is None:
            process.returncode = -1
            self._celery.proc[rev] = process
        self._celery.kill([name])

    def start_workers(self, jobs: int) -> None:
        """Have up to `jobs` workers; those that are there already stay."""
        workers = self._workers()
        if len(workers) >= jobs or time.monotonic() - self._started < _START_EVERY_S:
            return
        if self._slots:
            for number in sorted(set(range(1, jobs + 1)) - set(workers.values())):
                self._start_worker(number)
        else:
            self._change(["dvc", "queue", "start", "--jobs", str(jobs)])
        self._started = time.monotonic()

    def _start_worker(self, number: int) -> None:
        """Start one worker on its own GPUs: `dvc queue start` gives all the same environment."""
        code = (
            "import sys; from dvc.repo import Repo; "
            "Repo('.').experiments.celery_queue._spawn_worker(int(sys.argv[1]))"
        )
        gpus = {"CUDA_VISIBLE_DEVICES": str(self._slots[number - 1])}
        self._change([sys.executable, "-c", code, str(number)], starts=True, variables=gpus)

    def failure(self, rev: str) -> str | None:
        """The line that says why a run failed; None where DVC did not come to begin it."""
        process = self._celery.proc.get(rev)
        if not process or not process.stdout or not Path(process.stdout).is_file():
            return None
        with Path(process.stdout).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
            return _last_error(log.read().decode(errors="replace"))

    def read(self, commit: str, path: str) -> str:
        """A file of an experiment, from Git or from DVC's cache.

        Raises:
            FileNotFoundError: the experiment has no such file.
        """
        try:
            return str(dvc.api.read(path, repo=str(self._root), rev=commit))
        except (DvcException, OSError) as error:
            raise FileNotFoundError(str(error)) from None

    @contextmanager
    def _queueing(self) -> Iterator[int]:
        """One change of the queue at a time, also by a child of a sweep that was killed."""
        with self._lock.open("a", encoding="utf-8") as file:
            deadline = time.monotonic() + _QUEUEING_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OutputError(
                            f"{self._lock}: held for over {_QUEUEING_S:.0f} s by another change of "
                            "the DVC queue; end that dvc process and run again"
                        ) from None
                    time.sleep(0.2)
            yield file.fileno()

    def _change(
        self,
        command: Sequence[str],
        *,
        starts: bool = False,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, str]:
        # In a session of its own and with the lock: while DVC queues, HEAD is detached and
        # params.yaml rewritten; killed with us half way it would leave the checkout like that.
        # Output goes to a file, for a worker would keep a pipe open.
        with self._queueing() as lock, self._log.open("wb") as log:
            starts = starts or "start" in command
            limit = command_timeout_s()
            try:
                done = subprocess.run(
                    list(command),
                    cwd=self._root,
                    env={**self._environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=() if starts else (lock,),  # workers must not inherit it
                    timeout=limit,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise OutputError(
                    f"{too_long(command, limit)}; git status shows what it left in the checkout"
                ) from None
        return done.returncode, self._log.read_text(errors="replace", encoding="utf-8")

    def settle(self) -> None:
        """Wait for a change of the queue that a killed sweep has begun."""
        with self._queueing():
            pass

    def _workers(self) -> dict[int, int]:
        """Processes that work off this queue, each with the number of its worker."""
        found = {}
        node = re.compile(re.escape(self._node()) + r"(\d+)@")
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            named = [match for word in line if (match := node.match(word))]
            if "queue-worker" in line and named:
                found[process.pid] = int(named[0][1])
        return found

    def _node(self) -> str:
        digest = hashlib.sha256(self._celery.wdir.encode()).hexdigest()[:6]
        return f"dvc-exp-{digest}-"

    def _is_lost(self, rev: str, workers: Collection[int]) -> bool:
        """Whether no process works on an active entry: its worker was killed.

        DVC's own answer is asked last, since a worker that is about to end gives none.
        """
        if self._process_lives(rev):
            # Even without its worker it fills the run cache, so it is worth waiting for.
            self._seen_without_process.pop(rev, None)
            return False
        since = self._seen_without_process.setdefault(rev, time.monotonic())
        if not workers:
            # Seen twice: it may have ended, with its worker, while we looked.
            return time.monotonic() > since
        if time.monotonic() - since < _SETTLE_S:
            return False
        running = self._celery.worker_status()
        named = any(rev in str(task) for tasks in running.values() for task in tasks)
        return not named

    def _process_lives(self, rev: str) -> bool:
        process = self._celery.proc.get(rev)
        if not process or process.returncode is not None:
            return False
        try:
            found = psutil.Process(process.pid)
            return found.status() != psutil.STATUS_ZOMBIE and rev in " ".join(found.cmdline())
        except psutil.Error:
            return False


def _last_error(text: str) -> str:
    """The most telling line of a log: the stage's own error, then DVC's, then the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (r"^error: (.+)", r"^(\w*(?:Error|Exception|Interrupt)\b.*)", r"^ERROR: (.+)"):
        for line in reversed(lines):
            if match := re.match(pattern, line):
                return match[1][:300]
    return lines[-1][:300] if lines else "its log is empty"


def git(root: Path, *arguments: str) -> str:
    """Output of a git command.

    Raises:
        ConfigError: there is no repository, or no commit.
    """
    command = ["git", "--no-optional-locks", *arguments]
    done = run_command(command, cwd=root)
    if done.returncode:
        raise ConfigError(f"git {arguments[0]}: {_last_error(done.stderr)}")
    return done.stdout


def baseline_of(root: Path) -> str:
    """The commit that experiments start from.

    What stages wrote may differ from it, as on a machine of another type than the record's: runs
    carry dvc.lock along, so that what this machine has made is not made again.

    Raises:
        ConfigError: other tracked files are modified: each queued run would carry them.
    """
    lock = root / LOCK
    stages = read_lock(lock).values() if lock.is_file() else ()
    written = {LOCK, *(out for stage in stages for out in stage.outs)}
    status = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    modified = [line for line in status if line[3:] not in written]
    if modified:
        more = f" (and {len(modified) - 1} more)" if len(modified) > 1 else ""
        raise ConfigError(
            f"{modified[0][3:]}: modified{more}; a sweep compares runs of one commit: commit the "
            "change, or put it aside with git stash"
        )
    return git(root, "rev-parse", "HEAD").strip()
