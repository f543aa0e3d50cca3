"""Folders for what is of no use after a block: none stays for long, whatever ends its process."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "plumbline-"


@contextmanager
def scratch_folder(below: str | None = None) -> Iterator[Path]:
    """An empty folder in the folder `below`, None for `$TMPDIR`, removed after the block.

    It is locked (`flock`) while its process lives, so that the next one can tell what a killed one
    left behind, and removes it.
    """
    below = below or tempfile.gettempdir()
    _remove_left(below)
    folder, lock = _make_locked(below)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked(below: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=below))
        if (lock := _lock(folder)) is not None:
            if folder.exists():
                return folder, lock
            os.close(lock)  # between the two, another process took it for one that was left


def _lock(folder: Path) -> int | None:
    """The descriptor that holds a folder's lock; None where another process holds it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    return None


def _remove_left(below: str) -> None:
    for left in sorted(Path(below).glob(f"{_PREFIX}*")):
        with suppress(OSError):  # it went meanwhile
            if left.lstat().st_uid != os.getuid():
                continue
            if (lock := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
