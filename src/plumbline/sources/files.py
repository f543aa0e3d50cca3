"""Files of other people: which of them count, in which order, and reading them within limits."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.errors import DataError
from plumbline.sources.patterns import has_pattern, is_pattern

MAX_FILE_BYTES = MAX_CELL_BYTES
"""More of a file is not read: validation refuses a cell of this size for its length alone."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

SPLIT_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)
"""What folders and files of splits are called -> the split."""

_SKIP_BYTES = 2**20


class FoundFile(NamedTuple):
    """A file of a dataset."""

    name: str
    """Its path below the dataset's path, with slashes; bytes that are no text as surrogates."""
    path: Path
    split: str
    """Empty where none is given."""


def is_ours(name: str) -> bool:
    """Whether a name is not hidden and no writer's own, such as `_SUCCESS` or a partial file."""
    return not name.startswith((".", "_"))


def find_files(
    root: Path, splits: dict[str, str], wanted: Callable[[str], bool]
) -> Iterator[FoundFile]:
    """Find files below the places of the splits, or below `root`, depth first, sorted by name.

    A place that is a file itself is taken whatever its name; one with wildcards that is neither
    file nor folder is a pattern of paths (`is_pattern`). In memory are the names of one folder at
    a time.

    Args:
        root: the dataset's path, a folder or one file.
        splits: split -> place below `root`; empty for all of it.
        wanted: says by its name whether a file counts.

    Raises:
        DataError: a place does not exist, no path has a pattern, a folder cannot be listed, or a
            link leaves `root`.
    """
    home = root.resolve()
    places = {split: root / name for split, name in splits.items()} or {"": root}
    for split, place in places.items():
        if splits and is_pattern(splits[split]) and not place.exists():
            yield from _find_alike(root, splits[split], split, wanted)
            continue
        if place != root:
            check_place(place, home)
        if place.is_file():
            name = place.name if place == root else place.relative_to(root).as_posix()
            yield FoundFile(name, place, split)
        elif place.is_dir():
            for path in _walk(place, home, wanted):
                yield FoundFile(path.relative_to(root).as_posix(), path, split)
        else:
            raise DataError(f"{place.as_posix()}: no such file or folder")


def _find_alike(
    root: Path, pattern: str, split: str, wanted: Callable[[str], bool]
) -> Iterator[FoundFile]:
    seen = False
    for path in _walk(root, root.resolve(), wanted):
        name = path.relative_to(root).as_posix()
        if has_pattern(name, pattern):
            seen = True
            yield FoundFile(name, path, split)
    if not seen:
        raise DataError(
            f"{(root / pattern).as_posix()}: no file has this pattern; change the place of split "
            f"{split}, or put its files there"
        )


def matching(pattern: str) -> Callable[[str], bool]:
    """Select names by a pattern such as `*.txt`."""
    return lambda name: fnmatchcase(name, pattern)


def why_passed_over(
    name: str, splits: Mapping[str, str], wanted: Callable[[str], bool], unwanted: str
) -> str | None:
    """Why `find_files` does not find a file, as a tally calls it; None where it does.

    Args:
        name: of a file below the dataset's path.
        splits: as for `find_files`.
        wanted: as for `find_files`.
        unwanted: what is the matter with a name that is not wanted.
    """
    path = PurePosixPath(name)
    places = [PurePosixPath(place) for place in splits.values()] or [PurePosixPath()]
    if path in places:
        return None
    alike = any(has_pattern(name, place) for place in splits.values())
    if not alike and not any(path.is_relative_to(place) for place in places):
        return "passed over: in no place that splits name"
    return None if wanted(path.name) else f"passed over: {unwanted}"


def list_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.is_dir() and is_ours(e.name))
    except OSError as error:
        raise DataError(f"{root.as_posix()}: cannot be listed ({error.strerror})") from None


def list_files(root: Path) -> Iterator[str]:
    """Names of all files below a dataset's path, sorted by folder, hidden ones included.

    Unlike `find_files` it chooses nothing: it is for the account of what no source reads.
    """
    pending = [root] if root.is_dir() else []
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in entries)
        except OSError as error:
            raise DataError(f"{folder.as_posix()}: cannot be listed ({error.strerror})") from None
        pending += [folder / name for name, is_folder in reversed(found) if is_folder]
        for name, is_folder in found:
            if not is_folder:
                yield (folder / name).relative_to(root).as_posix()


def _walk(folder: Path, home: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise DataError(f"{folder.as_posix()}: cannot be listed ({error.strerror})") from None
    for name, is_folder in found:
        path = folder / name
        if not is_ours(name) or not (is_folder or wanted(name)):
            continue
        _check_link(path, home)
        if is_folder:
            if path.is_symlink():
                raise DataError(f"{path.as_posix()}: a link to a folder; put the folder there")
            yield from _walk(path, home, wanted)
        elif path.is_file():  # neither a pipe nor a device: opening one may wait for ever
            yield path


def _check_link(path: Path, home: Path) -> None:
    if path.is_symlink():
        check_place(path, home)


def check_place(path: Path, home: Path) -> None:
    """Refuse a place of a dataset that leads out of it by a link, its own or of a folder above.

    Args:
        path: as the settings name it.
        home: the dataset's path, resolved.

    Raises:
        DataError: names the place and the remedy.
    """
    target = path.resolve()
    if not target.is_relative_to(home):
        raise DataError(
            f"{path.as_posix()}: a link that leaves the dataset's folder; put the file itself "
            "there (of DVC's cache types, copy, reflink and hardlink do)"
        )
    if path.is_symlink() and not target.exists():
        raise DataError(f"{path.as_posix()}: a link to nothing; remove it or mend it")


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataError:
    """Describe what keeps a file from being read."""
    return DataError(
        f"{path.as_posix()}: cannot be read ({error.strerror or error}); "
        "check its permissions and the disk, or take it out of the dataset"
    )


def read_file(path: Path) -> bytes:
    """Read a file, at most one byte more than `MAX_FILE_BYTES`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open_file(path) as file:
            return _read_bounded(file)
    except OSError as error:
        raise unreadable(path, error) from None


def read_named_file(root: Path, name: bytes) -> bytes | None:
    """Read the file that a row names; None where it is not a file that lies below `root`.

    The name comes with the data, so that it may be anything: it never reaches a file elsewhere.
    Where there is none of a name with backslashes, they part folders, as Windows writes them.
    """
    try:
        path = (root / os.fsdecode(name)).resolve()
        if not path.exists() and b"\\" in name:
            path = (root / os.fsdecode(name.replace(b"\\", b"/"))).resolve()
        if not path.is_relative_to(root.resolve()) or not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return _read_bounded(file)
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, or links in a circle
        return None


def _read_bounded(file: BinaryIO) -> bytes:
    # By its size where it says one: a reader makes its buffer as large as what is asked for.
    size = os.fstat(file.fileno()).st_size or MAX_FILE_BYTES
    return file.read(min(size, MAX_FILE_BYTES) + 1)


class LineReader:
    """Lines of a file with their numbers, from 1 on; of a line that is too long, its beginning."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        """Read on from where `file` is."""
        self._file, self._max_bytes = file, max_bytes
        self._line = 1

    def lines(self, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield lines with their ends up to the position `stop`, which may lie within a line."""
        while piece := self._read(self._max_bytes, stop):
            number, rest = self._line, piece
            while len(piece) == self._max_bytes and rest and not rest.endswith(b"\n"):
                rest = self._read(_SKIP_BYTES, stop)
            self._line += rest.endswith(b"\n")
            yield number, piece

    def _read(self, most: int, stop: int | None) -> bytes:
        room = most if stop is None else min(most, stop - self._file.tell())
        return self._file.readline(room) if room > 0 else b""


def name_bytes(name: str) -> bytes:
    """Bytes of a file's name, also where they are no text."""
    return os.fsencode(name)
