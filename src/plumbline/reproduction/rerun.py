"""A clean clone of a commit, and the whole pipeline run in it from nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from plumbline.errors import ConfigError, OutputError
from plumbline.files import atomic_write
from plumbline.reproduction.compare import Outcome, Side
from plumbline.reproduction.lock import LOCK, StageEntry, read_lock
from plumbline.reproduction.tolerance import figures_of
from plumbline.waiting import run_command

_RUNNING = re.compile(r"^Running stage '([^']+)'")
_FAILED = re.compile(r"failed to reproduce '([^']+)'")
_NOISE = re.compile(r"^(> |Running stage |Generating lock|Updating lock|To track the changes|\s*$)")
_ERROR_LINES = 8
_STOP_S = 30.0  # a training saves its state before it ends

_OWN_CACHE = "[cache]\n    dir = cache\n"
"""For .dvc/config.local: a cache that users share would restore what is to be computed."""

_EXPERIMENT = re.compile(r"^(\s*- experiment:).*$", re.MULTILINE)


def environment() -> dict[str, str]:
    """The environment of everything that runs in a clone: same interpreter, nothing of a caller."""
    # PYTHONPATH names the caller's code: a clone has its own.
    foreign = ("DVC_", "GIT_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own = {"PLUMBLINE_TRACKING": "off", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    return {**kept, **own, "PATH": path}


def call(folder: Path, *command: str) -> str:
    """Run a command in a folder and return what it printed.

    Raises:
        OutputError: it failed or did not end; the text has the last line of what it said.
    """
    done = run_command(command, cwd=folder, env=environment())
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
        raise OutputError(f"{' '.join(command[:4])}: {said}")
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    """`call` of DVC under this interpreter."""
    return call(folder, sys.executable, "-m", "dvc", *arguments)


def committed_head(checkout: Path) -> str:
    """The commit of a checkout.

    Raises:
        ConfigError: the folder is not the top of a git checkout with a commit and a dvc.yaml.
    """
    try:
        top = call(checkout, "git", "rev-parse", "--show-toplevel").strip()
        commit = call(checkout, "git", "rev-parse", "--verify", "HEAD").strip()
    except OutputError as error:
        raise ConfigError(f"{checkout}: no commit to verify ({error})") from None
    if Path(top).resolve() != checkout.resolve() or not (checkout / "dvc.yaml").is_file():
        raise ConfigError(f"{checkout}: not the top folder of the project; go to {top}")
    return commit


def uncommitted_changes(checkout: Path) -> list[str]:
    """Files that differ from the commit or are new in it."""
    listed = call(checkout, "git", "--no-optional-locks", "status", "--porcelain")
    return [line[3:] for line in listed.splitlines()]


def make_clone(checkout: Path, commit: str, folder: Path) -> None:
    """Clone a commit into a new folder, with a DVC cache of its own and the tracked data.

    Raises:
        OutputError: git or DVC failed, or data that the commit tracks is nowhere to be had.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    call(folder.parent, "git", "clone", "-q", "--no-checkout", str(checkout), str(folder))
    call(folder, "git", "checkout", "-q", "--detach", commit)
    atomic_write(folder / ".dvc" / "config.local", _OWN_CACHE)
    _bring_data(checkout, folder)


def _bring_data(checkout: Path, folder: Path) -> None:
    """Restore what `dvc add` tracks: from the checkout's cache, or else from the remote."""
    tracked = call(folder, "git", "ls-files", "*.dvc").split("\n")[:-1]
    if not tracked:
        return
    config = folder / ".dvc" / "config.local"
    source = f"['remote \"checkout\"']\n    url = {cache_folder(checkout)}\n"
    atomic_write(config, _OWN_CACHE + source)
    try:
        dvc(folder, "pull", "-q", "-r", "checkout", *tracked)
    except OutputError:
        dvc(folder, "pull", "-q", *tracked)
    finally:
        atomic_write(config, _OWN_CACHE)


def select_preset(folder: Path, preset: str) -> None:
    """Make an experiment file the default of a clone, as `plumbline params` would.

    Raises:
        ConfigError: there is no such preset, or conf/config.yaml leaves no place for one.
        OutputError: the preset does not compose.
    """
    known = sorted(file.stem for file in (folder / "conf" / "experiment").glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset {preset}: not in conf/experiment, which has {', '.join(known)}")
    file = folder / "conf" / "config.yaml"
    text, places = _EXPERIMENT.subn(rf"\1 {preset}", file.read_text(encoding="utf-8"))
    if places != 1:
        raise ConfigError(f"{file.name}: has no line `- experiment:`, so no preset can be chosen")
    atomic_write(file, text)
    call(folder, sys.executable, "-m", "stages.check_params", "--write")


def reproduce(
    folder: Path, targets: Sequence[str], log: Path, show: Callable[[str], None]
) -> Outcome:
    """Run the pipeline from nothing; what it says goes to `log`, a line per stage to `show`."""
    (folder / LOCK).unlink(missing_ok=True)  # what it holds afterwards has run
    command = [sys.executable, "-m", "dvc", "repro", "--force", *targets]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # so that an interrupt can end the stage with it
    )
    watch = _Watch(show)
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                watch.read(line)
        returncode = process.wait()
    finally:
        _stop(process)
    return watch.outcome(returncode)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Watch:
    """Reads what DVC says: which stage runs, for how long, and why one failed."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = time.monotonic()
        self._said: list[str] = []
        self._failed: str | None = None

    def read(self, line: str) -> None:
        if match := _RUNNING.match(line):
            self._end_stage()
            self._stage, self._said = match[1], []
        elif match := _FAILED.search(line):
            self._failed = match[1]
        elif not _NOISE.match(line):
            self._said = [*self._said, line.rstrip()][-_ERROR_LINES:]

    def _end_stage(self) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self._seconds[self._stage] = round(now - self._since, 1)
            self._show(f"  {self._stage:<28} {now - self._since:7.1f} s")
        self._since = now

    def outcome(self, returncode: int) -> Outcome:
        self._end_stage()
        if returncode == 0:
            return Outcome(self._seconds)
        said = "\n".join(self._said) or f"dvc repro ended with exit code {returncode}"
        return Outcome(self._seconds, self._failed or self._stage or "dvc repro", said)


def cache_folder(checkout: Path) -> Path:
    """Where the DVC cache of a checkout lies."""
    return Path(checkout, dvc(checkout, "cache", "dir").strip())


def read_stages(folder: Path) -> dict[str, StageEntry]:
    """The stages of a folder's dvc.lock; none where it has no such file."""
    return read_lock(folder / LOCK) if (folder / LOCK).is_file() else {}


def open_side(folder: Path, stages: Mapping[str, StageEntry], cache: Callable[[], Path]) -> Side:
    """Read what a comparison needs of a folder, now: the files may change afterwards.

    Args:
        folder: holds dvc.lock and metrics/.
        stages: the stages of that lock which count.
        cache: gives the DVC cache that may hold the lists of files of the outputs.
    """
    metrics = [
        out
        for stage in stages.values()
        for out in stage.outs
        if out.startswith("metrics/") and out.endswith(".json") and (folder / out).is_file()
    ]
    figures = {out: figures_of(_read_figures(folder / out), out) for out in metrics}
    return Side(stages, figures, lambda md5: _list_folder(cache(), md5))


def _read_figures(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OutputError(f"{file}: not readable as JSON ({error})") from None


def _list_folder(cache: Path, md5: str) -> dict[str, str] | None:
    """The files of a folder that DVC has cached; None where the cache has no such folder."""
    file = cache / "files" / "md5" / md5[:2] / md5[2:]
    try:
        return {
            entry["relpath"]: entry["md5"] for entry in json.loads(file.read_text(encoding="utf-8"))
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return None
