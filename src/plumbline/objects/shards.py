"""Shards of a cache in an object store, by digest, and those of them that lie on this machine.

The disk is a cache over the store: what was not used for the longest goes where it is full.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.disk_errors import describe_os_error
from plumbline.errors import ConfigError, DamagedInputError
from plumbline.files import sha256_file
from plumbline.objects.mirror import mirrors
from plumbline.objects.stores import explained, open_store
from plumbline.waiting import patient_lock

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LIMIT = "PLUMBLINE_SHARDS_GB"
"""Environment variable: most that they take on this machine, in GiB; it changes no result."""
_LIMIT_GB = 64.0
_IDLE_S = 900.0
_FOLDER = ".shards"
_AGAIN = "then put the shards there again: dvc repro -f tokenize_text@DATASET"


class ShardStore:
    """The shards below a URL; processes that are forked from one that has it may use it."""

    def __init__(self, url: str) -> None:
        """Ask nothing yet.

        Raises:
            ConfigError: the environment says no limit.
        """
        self._url = url.rstrip("/")
        self._limit_bytes = _limit_bytes()
        self._opened: tuple[int, AbstractFileSystem] | None = None
        self.folder = mirrors() / _FOLDER

    def put(self, path: Path) -> str:
        """Put a file there, unless it is there; its digest, which is its name.

        Raises:
            ConfigError: the store cannot be asked, or not be written.
            DataError: it refuses.
        """
        digest = sha256_file(path)
        url, store = self._url_of(digest), self._store()
        place = store._strip_protocol(url)
        with explained(url):
            try:
                there = store.info(place)["size"] == path.stat().st_size
            except FileNotFoundError:
                there = False
            if not there:
                store.put_file(str(path), place)
        return digest

    def bring(self, digest: str) -> Path:
        """The file of a shard on this machine, fetched where it is not there.

        Raises:
            ConfigError: the store cannot be asked.
            DamagedInputError: what comes is another one.
            DataError: the store refuses.
            OutputError: the disk is full.
        """
        path = self.folder / digest
        try:
            while not _touch(path):  # another process may make room at any moment
                self.folder.mkdir(parents=True, exist_ok=True)
                # The processes of a training want the same one at the same moment.
                with patient_lock(self.folder / f".{digest[:2]}.lock", idle_s=_IDLE_S):
                    if not path.is_file():
                        self._fetch(digest, path)
                        self._make_room(path)
        except OSError as error:
            raise describe_os_error(error, path) from error
        return path

    def _fetch(self, digest: str, path: Path) -> None:
        url, store = self._url_of(digest), self._store()
        part = path.with_name(f".{digest}.part")
        with explained(url):
            try:
                store.get_file(store._strip_protocol(url), str(part))
            except FileNotFoundError:
                raise DamagedInputError(f"{url}: gone, {_AGAIN}") from None
        if sha256_file(part) != digest:
            part.unlink()
            raise DamagedInputError(
                f"{url}: another one than was put there; remove it there, {_AGAIN}"
            )
        part.replace(path)

    def _make_room(self, wanted: Path) -> None:
        """Remove what was not used for the longest, down to the limit; who reads it may go on."""
        there = []
        for file in self.folder.glob("[!.]*"):
            with suppress(FileNotFoundError):  # others make room as well
                facts = file.stat()
                there.append((file == wanted, facts.st_mtime_ns, facts.st_size, file))
        excess = sum(size for _, _, size, _ in there) - self._limit_bytes
        for is_wanted, _, size, file in sorted(there):
            if excess <= 0 or is_wanted:
                return
            file.unlink(missing_ok=True)
            excess -= size

    def _url_of(self, digest: str) -> str:
        return f"{self._url}/{digest}"

    def _store(self) -> "AbstractFileSystem":
        # A connection is of the process that made it.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_store(self._url)
        return self._opened[1]


def _touch(path: Path) -> bool:
    """Note that a file is used; whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _limit_bytes() -> float:
    given = os.environ.get(LIMIT)
    try:
        limit = _LIMIT_GB if given is None else float(given)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ConfigError(f"{LIMIT} = {given!r} is no size in GiB above 0")
    return limit * 2**30
