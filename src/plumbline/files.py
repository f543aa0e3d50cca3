"""Outputs that are whole or absent: locks, temporary names, digests.

Every file under `work/`, `models/`, `exports/`, `metrics/` and `report/` goes through this module.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from plumbline.disk_errors import describe_os_error, refused_write
from plumbline.errors import CheckpointError, OutputError

STATE_DIR = Path(".plumbline")
"""Locks and run records: what a checkout keeps beside its outputs, never inside them."""

DIGESTS = "digests.json"


def dump_json(value: object) -> str:
    """Serialise to the one JSON form that files here have: sorted keys, two spaces, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-serialisable value, independent of the order of its keys."""
    return hashlib.sha256(dump_json(value).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _share_modes(root: Path) -> None:
    """Give files and folders below `root` the mode that the umask gave `root` itself.

    safetensors and others write 0600 whatever the umask: another account could not read them.
    """
    shared = stat.S_IMODE(root.stat().st_mode) & 0o777
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        runs = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(mode & ~0o777 | (shared if runs else shared & 0o666))


def _sync_tree(root: Path) -> None:
    for path in sorted(root.rglob("*")):
        _sync(path)
    _sync(root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a read-only disk refuses to delete even what is not there
        path.unlink()


def link_or_copy(file: Path, place: Path) -> None:
    """Give a file a second name, which takes no room, or copy it where no link can be."""
    try:
        place.hardlink_to(file)
    except OSError:  # not on this file system
        shutil.copy2(file, place)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as another user
    return True


def _publish(partial: Path, final: Path) -> None:
    """Give a complete output its name, keeping the one before until the new one stands."""
    before = final.with_name(f".{final.name}.before-{os.getpid()}")
    if final.is_dir():
        final.rename(before)
    try:
        partial.replace(final)
    except OSError:
        if before.exists():
            before.rename(final)
        raise
    _sync(final.parent)
    if before.exists():
        shutil.rmtree(before)


def remove_folder(folder: Path) -> None:
    """Delete a published folder so that nobody meets a part of it under its name.

    Raises:
        OutputError: it cannot be deleted.
    """
    going = folder.with_name(f".{folder.name}.removed-{os.getpid()}")
    try:
        folder.rename(going)
        shutil.rmtree(going)
    except FileNotFoundError:
        return
    except OSError as error:
        raise describe_os_error(error, folder) from error


def settle_folder(parent: Path) -> None:
    """Undo what a killed process left half done among the folders of `parent`.

    A published folder that had just been moved aside for its successor gets its name back; the
    rest is deleted. Only for a parent that this process alone writes to.
    """
    for left in sorted(parent.glob(".*.before-*")):
        final = left.with_name(left.name[1:].rsplit(".before-", 1)[0])
        if not final.exists():
            left.rename(final)
    for kind in ("partial", "before", "removed"):
        for left in parent.glob(f".*.{kind}-*"):
            _remove(left)


_held: set[TextIO] = set()


def _drop_locks() -> None:
    # A loader worker outlives a killed stage by seconds and must not go on holding its locks.
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_drop_locks)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock file alone; it names this process.

    The lock is the kernel's (`flock`), so that of a process that died is free again. Processes
    that are forked meanwhile do not share it.

    Raises:
        BlockingIOError: another live process holds it; its text is the pid.
        OutputError: the place of the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise describe_os_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(file.read().strip() or "unknown") from None
        _note_pid(file, path)
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def _note_pid(file: TextIO, path: Path) -> None:
    # Past the buffer: what a full disk refuses must not come up again when the file is closed.
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    except OSError as error:
        raise describe_os_error(error, path) from error


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold the right to write `out`; a second writer is refused at once.

    Raises:
        OutputError: another live process holds it; the text names its pid.
    """
    name = hashlib.sha256(str(out).encode()).hexdigest()[:8] + "-" + out.name + ".lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(STATE_DIR / "locks" / name))
        except BlockingIOError as holder:
            raise OutputError(
                f"{out}: held by the running process {holder}; wait for it or end it"
            ) from None
        yield


@contextmanager
def staged_folder(out: Path, *, digests: bool = True) -> Iterator[Path]:
    """Write the folder `out` under a temporary name and publish it whole.

    Yields an empty folder beside `out`. When the block ends well, the folder gets `digests.json`
    (SHA-256 of every file in it), is synced and renamed; when it fails, the folder is removed and
    whatever stood at `out` before is untouched. Only for an `out` that this process alone writes.
    Without `digests` it gets no such file.

    Raises:
        OutputError: the place of `out` cannot be written.
    """
    partial = _new_partial(out, alone=True)
    try:
        partial.mkdir()
        yield partial
        if digests:
            write_digests(partial)
        _share_modes(partial)
        _sync_tree(partial)
        _publish(partial, out)
    except OutputError:
        raise
    except OSError as error:
        raise describe_os_error(error, out) from error
    except Exception as error:
        if (code := refused_write(error)) is not None:
            raise describe_os_error(OSError(code, str(error)), out) from error
        raise
    finally:
        _remove(partial)


@contextmanager
def staged_output(out: Path) -> Iterator[Path]:
    """`staged_folder` while holding the right to write `out`: how a stage makes its output.

    Raises:
        OutputError: another process holds `out`, or its place cannot be written.
    """
    with output_lock(out), staged_folder(out) as partial:
        yield partial


_LEFT = re.compile(r"\..+\.(partial|before)-(\d+)")


def _new_partial(out: Path, *, alone: bool = False) -> Path:
    """The temporary name of `out` for this process; what killed ones left under theirs goes.

    Args:
        out: the final name.
        alone: whether no other process writes `out`. Else a live writer's files are spared; a
            number may be that of another process by now, so that some stay until it has ended.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with os.scandir(out.parent) as entries:  # a pattern would be compiled for each name
            there = sorted(
                entry.name for entry in entries if entry.name.startswith(f".{out.name}.")
            )
        for name in there:
            left = _LEFT.fullmatch(name)
            if left is None or not name.startswith(f".{out.name}.{left[1]}-"):
                continue
            pid = int(left[2])
            if alone or pid == os.getpid() or not _is_running(pid):
                _remove(out.with_name(name))
    except OSError as error:
        raise describe_os_error(error, out) from error
    return out.with_name(f".{out.name}.partial-{os.getpid()}")


def atomic_write(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write one file so that a reader sees the old content or the new one, never a part.

    Args:
        path: of the file.
        content: text is written as UTF-8.
        durable: whether it must outlast a loss of power; a reader that can tell what is damaged,
            and make it anew, spares the wait for the disk.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = _new_partial(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        _remove(partial)


def write_digests(folder: Path) -> None:
    """Write `digests.json`: the SHA-256 of every other file below `folder`, by relative path."""
    digests = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DIGESTS
    }
    (folder / DIGESTS).write_text(dump_json(digests), encoding="utf-8")


def read_digests(folder: Path, *, remedy: str | None = None) -> dict[str, str]:
    """Read a folder's `digests.json`.

    Args:
        folder: what plumbline has published.
        remedy: what to do where it is damaged; None: what helps with an output of a stage.

    Raises:
        CheckpointError: the folder was not published by plumbline, or its list is damaged.
    """
    missing = remedy or "build it with dvc repro, or restore it with dvc checkout"
    damaged = remedy or "run dvc repro -f"
    try:
        digests: dict[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {DIGESTS}; {missing}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / DIGESTS}: damaged ({error}); {damaged}") from None
    if not isinstance(digests, dict) or not digests:
        raise CheckpointError(f"{folder / DIGESTS}: damaged (names no file); {damaged}")
    return digests


def verify_digests(
    folder: Path, *, remedy: str | None = None, names: Collection[str] | None = None
) -> dict[str, str]:
    """Check every file of a published folder against its digest, and return the digests.

    Args:
        folder: what plumbline has published.
        remedy: what to do where it is damaged; None: what helps with an output of a stage.
        names: of the files that are read through; None: all. Whether the others are there is seen.

    Raises:
        CheckpointError: a file is missing or its bytes have changed since it was written.
    """
    missing = remedy or "run dvc checkout or dvc repro -f"
    changed = remedy or "remove it from the workspace and the DVC cache, then run dvc repro -f"
    digests = read_digests(folder, remedy=remedy)
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; {missing}")
        if (names is None or name in names) and sha256_file(path) != expected:
            raise CheckpointError(
                f"{path}: its bytes changed after it was written (SHA-256 differs from {DIGESTS}); "
                f"{changed}"
            )
    return digests


def read_json(path: Path) -> Any:
    """Read a JSON file that plumbline wrote; whoever reads it names the type that was written.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; run dvc repro") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None


def write_json(path: Path, value: Mapping[str, object] | Sequence[object]) -> None:
    """Write JSON atomically, in the one form of `dump_json`."""
    atomic_write(path, dump_json(value))
