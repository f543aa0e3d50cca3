"""Clear caches, old training state and experiments on purpose: `make gc`, `make gc YES=1`."""

import argparse
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from plumbline.files import STATE_DIR


def _folder_bytes(folder: Path) -> int:
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


def removable(root: Path) -> Iterator[Path]:
    """Folders that no output needs, and that nobody is writing.

    Of each stage's training states the newest stays: a run that was stopped goes on from it. So
    does the newest run record.
    """
    features = (root / STATE_DIR / "features").glob("[!.]*")
    yield from sorted(path for path in features if path.is_dir())
    yield from sorted((root / STATE_DIR / "runs").glob("[!.]*"))[:-1]
    for stage in sorted((root / ".ckpt").glob("[!.]*")):
        states = [path for path in stage.glob("[!.]*") if path.is_dir()]
        older = sorted(states, key=lambda path: (path.stat().st_mtime, path.name))[:-1]
        yield from (path for path in older if not _is_held(path))


def main(arguments: Sequence[str]) -> None:
    """List what could go; remove it with --yes."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.gc", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove, do not only list")
    parser.add_argument("--experiments", action="store_true", help="remove all experiments too")
    options = parser.parse_args(arguments)
    total = 0
    for folder in removable(Path()):
        size = _folder_bytes(folder)
        total += size
        print(f"{size / 1e6:10.1f} MB  {folder}")
        if options.yes:
            shutil.rmtree(folder)
    done = "removed" if options.yes else "in all; make gc YES=1 removes it"
    print(f"{total / 1e6:10.1f} MB  {done}")
    if not options.yes:
        print("and what no branch, tag or experiment uses of DVC's cache; EXPERIMENTS=1 YES=1 also")
        print("removes all experiments")
        return
    if options.experiments:
        subprocess.run(["dvc", "exp", "remove", "--all-commits"], check=False)
    keep = ["--workspace", "--all-branches", "--all-tags", "--all-experiments"]
    subprocess.run(["dvc", "gc", *keep, "-f"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
