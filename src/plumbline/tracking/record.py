"""The record of a run: one file of JSON lines per stage, copied live to the trackers.

The file is the record, a tracker a view of it. A call of the stage only appends to a list in
memory; a thread writes the list out once a second, and for each tracker a process of its own
(`forwarder`) copies the files. So one that is dead, slow or hanging costs a stage nothing.

Records lie in `.plumbline/runs/<pipeline>/<stage>@<key>-<pid>.jsonl` below `$DVC_ROOT`, outside
every out: they hold times, hosts and paths. Their events are `start`, `metrics`, `facts`,
`artifact` and `end`.
"""

import fcntl
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from plumbline.tracking.forwarders import RUNS, ensure_forwarders
from plumbline.tracking.trackers import selected

FLUSH_S = 1.0
"""The longest time that an event stays in memory."""

_CLOSE_S = 5.0  # a disk that hangs longer than this loses the last second of the record
_BACKLOG_BYTES = 64 * 2**20  # what a full disk may make us keep in memory
_GIT_S = 2.0

_PACKAGES = (
    "plumbline",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "accelerate",
    "numpy",
    "pyarrow",
    "pillow",
    "onnx",
    "onnxruntime",
    "dvc",
    "hydra-core",
    "mlflow",
)

_logger = logging.getLogger(__name__)


class RunRecord:
    """What a running stage writes to its record; no method raises, whatever the disk does."""

    def __init__(self, appender: "_Appender | None") -> None:
        self._appender = appender
        self._started = time.monotonic()

    @property
    def path(self) -> Path | None:
        """The record's file; None when it could not be created."""
        return self._appender.path if self._appender else None

    def metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Record a point of each series at optimiser step `step`; NaN and infinity are kept."""
        self._put("metrics", step=step, values=_plain(values))

    def facts(self, values: Mapping[str, object]) -> None:
        """Record what holds for the whole run: counts, sizes, device, digests of the inputs.

        For trackers a number is a metric below `facts/`, anything else a tag.
        """
        self._put("facts", values=_plain(values))

    def artifact(self, path: Path) -> None:
        """Name a file that trackers shall show; it is copied if it is small (`run_store`)."""
        self._put("artifact", path=str(path.absolute()))

    def _put(self, event: str, **fields: object) -> None:
        if self._appender:
            self._appender.put({"event": event, "time": time.time(), **fields})

    def _finish(self, error: str | None) -> None:
        self.facts({"peak_rss_bytes": _peak_rss_bytes()})
        seconds = round(time.monotonic() - self._started, 3)
        self._put("end", status="failed" if error else "ok", seconds=seconds, error=error)
        if self._appender:
            self._appender.close()


@contextmanager
def record_run(
    *, stage: str, key: str | None = None, config: Mapping[str, object]
) -> Iterator[RunRecord]:
    """Record one run of a stage, and keep the trackers that are selected fed with it.

    Args:
        stage: the stage's name, e.g. `finetune`.
        key: its entry of the `foreach`, e.g. `vqa`.
        config: the resolved settings of the stage, as plain mappings, lists and scalars.

    Raises:
        ConfigError: `PLUMBLINE_TRACKING` names an unknown tracker.
    """
    root, trackers = Path(os.environ.get("DVC_ROOT") or Path.cwd()), selected()
    run = RunRecord(_create(root, stage, key, config))
    if run.path is None:
        trackers = {}
    ensure_forwarders(root, trackers)
    try:
        yield run
    except BaseException as error:
        run._finish(_describe_exit(error))
        raise
    else:
        run._finish(None)
    finally:
        ensure_forwarders(root, trackers)  # those from the start may have been killed meanwhile


def _describe_exit(error: BaseException) -> str | None:
    if isinstance(error, SystemExit) and not error.code:
        return None
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:500]


def _create(
    root: Path, stage: str, key: str | None, config: Mapping[str, object]
) -> "_Appender | None":
    name = file_name(stage) + (f"@{file_name(key)}" if key else "")
    folder = root / RUNS / pipeline_id()
    start = {"event": "start", "time": time.time(), "stage": stage, "key": key}
    start |= {"config": _plain(config), **_describe_environment(root)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _Appender(_unused(folder / f"{name}-{os.getpid()}.jsonl"), start)
    except OSError as error:
        _logger.warning("%s: no record of this run (%s); the stage goes on", folder, error)
        return None


def _unused(path: Path) -> Path:
    """A process may run the same stage again: each run has a file of its own."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}-{number}.jsonl"), number + 1
    return candidate


class _Appender:
    """Appends events to one file, from a thread of its own.

    The file is locked (`flock`) as long as its writer lives, so a reader knows for certain whether
    a record without an end belongs to a stage that was killed.
    """

    def __init__(self, path: Path, first: Mapping[str, object]) -> None:
        self.path = path
        self._events: deque[Mapping[str, object]] = deque([first])
        self._unwritten = b""
        self._warned = False
        self._closing = threading.Event()
        # Readers must never meet a record that is empty or not yet locked.
        partial = path.with_name(f"{path.name}.partial")
        self._descriptor = os.open(
            partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o644
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write()
            partial.rename(path)
        except OSError:
            os.close(self._descriptor)
            partial.unlink(missing_ok=True)
            raise
        self._thread = threading.Thread(target=self._run, name="run-record", daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, object]) -> None:
        self._events.append(event)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_S):
            self._try_write()
        self._try_write()
        os.close(self._descriptor)

    def _try_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                _logger.warning("%s: not written (%s); the stage goes on", self.path, error)
            self._warned = True

    def _write(self) -> None:
        # What a full disk has refused is kept and comes first the next time, so that no line is
        # ever broken in the middle; what is too much to keep is lost.
        lines = []
        while self._events:
            lines.append(json.dumps(self._events.popleft(), allow_nan=False) + "\n")
        if len(self._unwritten) < _BACKLOG_BYTES:
            self._unwritten += "".join(lines).encode()
        while self._unwritten:
            written = os.write(self._descriptor, self._unwritten)
            self._unwritten = self._unwritten[written:]


def _plain(value: object) -> object:
    """Reduce a value to what JSON can hold; a float that is not finite becomes its name."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if callable(item := getattr(value, "item", None)):  # scalars of numpy and torch
        with suppress(TypeError, ValueError, RuntimeError):
            return _plain(item())
    return str(value)


def file_name(text: str) -> str:
    """Make a file name of any text: no separators, no leading dot, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80].lstrip(".") or "_"


def pipeline_id(proc: Path = Path("/proc")) -> str:
    """The name that all stages of one pipeline run share; names sort by time (UTC).

    A pipeline run is one `dvc` process, found among the ancestors of this one; a stage that is
    run by hand is a pipeline of its own. Example: `20260102-131415-repro-4711`.
    """
    dvc = _dvc_ancestor(os.getppid(), proc)
    pid = dvc or os.getpid()
    name = os.environ.get("DVC_EXP_NAME") or ("repro" if dvc else "manual")
    started = time.strftime("%Y%m%d-%H%M%S", time.gmtime(_start_time(pid, proc)))
    return f"{started}-{file_name(name)}-{pid}"


def _dvc_ancestor(pid: int, proc: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        while pid > 1:
            # `dvc ...`, `python -m dvc ...` or `python .../bin/dvc ...`, but not the shell of
            # `sh -c "dvc repro"` nor a path that has dvc in it.
            arguments = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:4]
            if any(argument.split(b"/")[-1] == b"dvc" for argument in arguments):
                return pid
            pid = int(_stat_fields(pid, proc)[1])
    return None


def _stat_fields(pid: int, proc: Path) -> list[str]:
    """The fields of `/proc/<pid>/stat` after the command, which may hold spaces and brackets."""
    return (proc / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _start_time(pid: int, proc: Path) -> float:
    """When a process started, in seconds since 1970. Source: man 5 proc_pid_stat, field 22."""
    with suppress(OSError, ValueError, IndexError):
        boot = re.search(r"^btime (\d+)", (proc / "stat").read_text(encoding="utf-8"), re.MULTILINE)
        if boot:
            ticks = int(_stat_fields(pid, proc)[19])
            return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK")
    return time.time()


def _describe_environment(root: Path) -> dict[str, object]:
    environ = os.environ
    return {
        "versions": dict(_package_versions()),
        "git": _git_state(),
        "dvc": {
            "stage": environ.get("DVC_STAGE"),
            "exp": environ.get("DVC_EXP_NAME"),
            "baseline": environ.get("DVC_EXP_BASELINE_REV"),
            "folder": os.path.relpath(Path.cwd(), root),
        },
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": environ.get("OMP_NUM_THREADS"),
    }


def _package_versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


def _git_state() -> dict[str, object]:
    # DVC works in the same repository: no optional locks. It also rewrites dvc.lock and metrics/
    # while the pipeline runs, which must not make every run look modified.
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--ignore-submodules", "--", "."]
    command += [":(exclude)dvc.lock", ":(exclude)metrics"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    commit = re.search(r"^# branch\.oid (\w+)$", done.stdout, re.MULTILINE)
    dirty = any(not line.startswith("#") for line in done.stdout.splitlines())
    return {"commit": commit[1] if commit else None, "dirty": dirty}


def _cpu_name() -> str:
    """The processor's type: equal bits are promised for the same type only."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _peak_rss_bytes() -> int | None:
    # Not getrusage: its maximum is inherited from the process that started this one.
    with suppress(OSError):
        peak = re.search(
            r"^VmHWM:\s+(\d+) kB",
            Path("/proc/self/status").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        return int(peak[1]) * 1024 if peak else None
    return None
