"""Clear caches, training state and experiment refs on purpose: `make gc`, `make gc YES=1`."""

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
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def removable(root: Path) -> Iterator[Path]:
    """Folders that no output needs: features, run records, training state that nobody holds."""
    yield from sorted((root / STATE_DIR / "features").glob("*"))
    yield from sorted((root / STATE_DIR / "runs").glob("*"))
    for folder in sorted((root / ".ckpt").glob("*/*")):
        if folder.is_dir() and not _is_held(folder):
            yield folder


def main(arguments: Sequence[str]) -> None:
    """List what could go; remove it with --yes."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.gc", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove, do not only list")
    yes = parser.parse_args(arguments).yes
    total = 0
    for folder in removable(Path()):
        size = _folder_bytes(folder)
        total += size
        print(f"{size / 1e6:10.1f} MB  {folder}")
        if yes:
            shutil.rmtree(folder)
    print(f"{total / 1e6:10.1f} MB  {'removed' if yes else 'in all; make gc YES=1 removes it'}")
    if yes:
        # What the workspace, branches, tags and kept experiments do not use goes from the cache.
        subprocess.run(["dvc", "exp", "remove", "--all-commits"], check=False)
        subprocess.run(
            ["dvc", "gc", "--workspace", "--all-branches", "--all-tags", "-f"], check=True
        )
    else:
        print("it would also remove all experiments and what no branch or tag uses of DVC's cache")


if __name__ == "__main__":
    main(sys.argv[1:])
