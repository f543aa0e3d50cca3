"""What can go of caches, old training states and experiments."""

import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from plumbline.files import STATE_DIR
from plumbline.heal import heal
from plumbline.objects.mirror import unneeded
from plumbline.tracking.forwarder_state import read_stores
from plumbline.tracking.forwarders import RUNS
from plumbline.tracking.trackers import selected
from plumbline.waiting import command_timeout_s, too_long


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _is_held(folder: Path) -> bool:
    """Whether a running process holds a training-state folder; its lock lies beside it."""
    lock = folder.with_name(f"{folder.name.split('-')[0]}.lock")
    if not lock.exists():
        return False
    with lock.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


_STEP = re.compile(r"step-(\d+)")


def _progress(folder: Path) -> int:
    """How far a training state has come, in micro-steps; -1 where there is none."""
    steps = (_STEP.fullmatch(path.name) for path in folder.iterdir())
    return max((int(step[1]) for step in steps if step), default=-1)


def records_ahead(root: Path) -> set[Path]:
    """Run records of which a tracker has not had everything; none where there is no tracker."""
    runs = root / RUNS
    behind: set[Path] = set()
    for tracker in selected().values():
        stores = list(read_stores(root, tracker).values())
        for record in sorted(runs.glob("*/*.jsonl")):
            name = record.relative_to(runs).as_posix()
            if not any(records.get(name, {}).get("status") for records in stores):
                behind.add(record.parent)
    return behind


def removable(root: Path) -> Iterator[Path]:
    """Folders that no output needs, and that nobody is writing.

    Of each stage's training states the one that has come furthest stays: a run that was stopped
    goes on from it. So do the newest run record, those that the tracker has not had, and copies of
    objects by the listings that are in use. Compiled programs stay while a training runs.
    """
    for kept_apart in ("features", "validated"):
        folders = (root / STATE_DIR / kept_apart).glob("[!.]*")
        yield from sorted(path for path in folders if path.is_dir())
    yield from unneeded(root)
    kept = records_ahead(root)
    records = sorted((root / RUNS).glob("[!.]*"))[:-1]
    yield from (path for path in records if path not in kept)
    stages = [
        [path for path in stage.glob("[!.]*") if path.is_dir()]
        for stage in sorted((root / ".ckpt").glob("[!.]*"))
    ]
    held = {path for states in stages for path in states if _is_held(path)}
    programs = root / STATE_DIR / "compiled"
    if programs.is_dir() and not held:
        yield programs
    for states in stages:
        behind = sorted(states, key=lambda path: (_progress(path), path.name))[:-1]
        yield from (path for path in behind if path not in held)


def collect(root: Path, *, experiments: bool) -> int:
    """Remove what no branch, tag or experiment uses of DVC's cache; the exit code of dvc.

    Args:
        root: the project, which is the working folder.
        experiments: remove all experiments before.
    """
    heal(root)
    if experiments:
        _dvc("exp", "remove", "--all-commits")
    keep = ["--workspace", "--all-branches", "--all-tags", "--all-experiments"]
    return _dvc("gc", *keep, "-f")


def _dvc(*arguments: str) -> int:
    """Run a command of DVC, which speaks for itself; its exit code."""
    command, limit = ["dvc", *arguments], command_timeout_s()
    try:
        return subprocess.run(command, timeout=limit, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"error: {too_long(command, limit)}", file=sys.stderr)
        return 1
