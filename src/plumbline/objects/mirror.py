"""A copy of what a listing names, on this machine: fetched once, and as it was when it was listed.

Below `.plumbline/objects` lies a folder for each URL, in it one for each listing that was fetched,
by the digest of the listing, so that a copy never changes under who reads it. What a listing
shares with one before is linked, not fetched. A fetch that was stopped goes on where it was.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from plumbline import paths
from plumbline.disk_errors import describe_os_error
from plumbline.errors import ConfigError, DataError, OutputError
from plumbline.files import STATE_DIR, exclusive_lock, link_or_copy, sha256_file
from plumbline.objects.fetching import Fetcher
from plumbline.objects.listing import Listing, ObjectFacts, read_listing
from plumbline.tracking.progress import progress
from plumbline.waiting import patient_lock

logger = logging.getLogger(__name__)

PLACE = "PLUMBLINE_OBJECTS"
"""Environment variable: a folder for all copies, such as one on a larger disk."""
_IDLE_S = 900.0
_BEGUN, _PARTS, _LOCK = ".begun", "parts", "lock"
_DIGITS = 16
_MB = 10**6


def mirrors() -> Path:
    """The folder of all copies: that of the project also for an experiment of its queue."""
    place = os.environ.get(PLACE)
    return Path(place) if place else Path(os.environ.get("DVC_ROOT", "."), STATE_DIR, "objects")


def home_of(url: str) -> Path:
    """The folder of all copies of a URL."""
    return mirrors() / sha256(url.encode()).hexdigest()[:_DIGITS]


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """What a source reads in place of a dataset's path: of a listing the copy, else the path.

    A fault in the copy is said of the URL.

    Raises:
        ConfigError: the store cannot be asked.
        DataError: an object is gone or another one since it was listed.
        OutputError: the disk has no room for the copy.
    """
    if path.parent != paths.objects("x").parent:
        yield path
        return
    listing = read_listing(path)
    root = mirror(listing, f"plumbline repro -f list_objects@{path.stem}")
    with said_of(listing.url, root):
        yield root


@contextmanager
def said_of(url: str, root: Path) -> Iterator[None]:
    """Put a URL in the place of its copy into the errors of the block.

    Raises:
        ConfigError: as the block.
        DataError: as the block.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(str(error).replace(root.as_posix(), url.rstrip("/"))) from error


def mirror(listing: Listing, again: str) -> Path:
    """The folder with all objects of a listing, or its one file; fetched where it is not there.

    Args:
        listing: what to have.
        again: the command that lists it anew, for messages.

    Raises:
        ConfigError: the store cannot be asked.
        DataError: an object is gone or another one since it was listed.
        OutputError: the disk has no room.
    """
    copy = _Copy(listing, home_of(listing.url), again)
    try:
        copy.home.mkdir(parents=True, exist_ok=True)
        with patient_lock(copy.lock, idle_s=_IDLE_S):
            if copy.missing(copy.whole) or copy.strays(copy.whole):
                copy.make()
    except OSError as error:
        raise describe_os_error(error, copy.home) from error
    return copy.whole / listing.objects[0].name if listing.single else copy.whole


def unneeded(root: Path) -> Iterator[Path]:
    """Folders of copies, and of what has arrived, that no listing of a project names.

    Args:
        root: the project, which is the working folder.
    """
    listings = sorted((root / paths.objects("x").parent).glob("*.jsonl"))
    used = {sha256_file(listing)[:_DIGITS] for listing in listings}
    for home in sorted(path for path in (root / mirrors()).glob("[!.]*") if path.is_dir()):
        try:
            with exclusive_lock(home / _LOCK):
                folders = sorted(path for path in home.iterdir() if path.is_dir())
                left = [path for path in folders if path.stem not in used]
                begun = any(path.suffix == _BEGUN and path not in left for path in folders)
        except BlockingIOError:
            continue  # somebody fetches
        yield from (path for path in left if path.name != _PARTS or not begun)


@dataclass(frozen=True)
class _Copy:
    """The copy of one listing, below the folder `home` of its URL."""

    listing: Listing
    home: Path
    again: str

    @property
    def lock(self) -> Path:
        """Held by who makes a copy of this URL."""
        return self.home / _LOCK

    @property
    def whole(self) -> Path:
        """Where all of it lies."""
        return self.home / self.listing.digest[:_DIGITS]

    def missing(self, folder: Path) -> list[ObjectFacts]:
        """What is not there with its size: only what was checked has a name."""
        if not folder.is_dir():
            return list(self.listing.objects)
        return [one for one in self.listing.objects if _size(folder / one.name) != one.bytes]

    def strays(self, folder: Path) -> list[Path]:
        """What lies there and is not of the listing."""
        names = {one.name for one in self.listing.objects}
        files = (Path(top, name) for top, _, found in os.walk(folder) for name in found)
        return [path for path in files if path.relative_to(folder).as_posix() not in names]

    def make(self) -> None:
        """Bring everything, then give the folder its name."""
        begun = self.whole.with_suffix(_BEGUN)
        if self.whole.exists():  # somebody changed it
            shutil.rmtree(begun, ignore_errors=True)
            self.whole.rename(begun)
        parts = self.home / _PARTS
        for folder in (begun, parts):
            folder.mkdir(exist_ok=True)
        # Beside the copy, for the next listing of this URL, also if this one is never finished.
        self.listing.write(self.whole.with_suffix(".jsonl"))
        for path in self.strays(begun):
            path.unlink()
        self._link_what_others_have(begun)
        if missing := self.missing(begun):
            self._check_room(missing, parts)
            self._fetch(missing, begun, parts)
        os.sync()
        begun.rename(self.whole)
        shutil.rmtree(parts, ignore_errors=True)

    def _link_what_others_have(self, begun: Path) -> None:
        """Take from copies of other listings what is the same object in the same version."""
        wanted = {one.name: one for one in self.missing(begun)}
        own = self.whole.with_suffix(".jsonl")
        for record in sorted(path for path in self.home.glob("*.jsonl") if path != own):
            objects = read_listing(record).objects
            for other in (record.with_suffix(""), record.with_suffix(_BEGUN)):
                for one in objects:
                    there = other / one.name
                    if wanted.get(one.name) == one and _size(there) == one.bytes:
                        _link(there, begun / one.name)
                        del wanted[one.name]

    def _check_room(self, missing: Sequence[ObjectFacts], parts: Path) -> None:
        size = sum(one.bytes for one in missing) - sum(_size(part) or 0 for part in parts.iterdir())
        free = shutil.disk_usage(self.home).free
        if size > free:
            raise OutputError(
                f"{self.home}: the copy of {self.listing.url} takes {size / 1e9:,.1f} GB more, and "
                f"{free / 1e9:,.1f} GB are free: free some space (plumbline gc lists what can go), "
                f"or name a folder on another disk in {PLACE}"
            )

    def _fetch(self, missing: Sequence[ObjectFacts], begun: Path, parts: Path) -> None:
        size, all_of_them = sum(one.bytes for one in missing), len(self.listing.objects)
        logger.info(
            "%s: fetching %s of %s objects, %s MB, into %s",
            *(self.listing.url, f"{len(missing):,}", f"{all_of_them:,}", f"{size / _MB:,.1f}"),
            self.home,
        )
        fetcher = Fetcher.open(self.listing, parts, self.lock, self.again)
        with progress("fetching", size // _MB, "MB") as update:
            update(0, "")
            fetcher.bring_all(missing, begun, lambda done: update(done // _MB, ""))


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    link_or_copy(file, place)


def _size(path: Path) -> int | None:
    """Of a file in bytes; None where there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
