"""Objects on their way to this machine: in blocks, several at a time, each checked before use."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from plumbline.errors import DataError
from plumbline.objects.listing import Listing, ObjectFacts, has_checksum, look_at, mark_of
from plumbline.objects.stores import explained, open_store

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

FETCHERS = 8
BLOCK_BYTES = 2**24
"""Of an object in a request; each of the fetchers holds one in memory."""
_TRIES = 2
_READ_ONLY = 0o444
_POLL_S = 1.0


@dataclass
class Arrived:
    """How many bytes have come, from all fetchers."""

    bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self, size: int) -> None:
        """Count a block."""
        with self._lock:
            self.bytes += size


@dataclass(frozen=True)
class Fetcher:
    """Fetches objects of one listing."""

    listing: Listing
    store: "AbstractFileSystem"
    parts: Path
    """Where what has arrived of an object lies until all of it is there."""
    beat: Path
    """Touched at every block, for those who wait."""
    again: str
    """What lists the objects anew, for messages."""
    arrived: Arrived = field(default_factory=Arrived)
    _stopped: Event = field(default_factory=Event)

    @classmethod
    def open(cls, listing: Listing, parts: Path, beat: Path, again: str) -> "Fetcher":
        """Open the store of a listing.

        Raises:
            ConfigError: its package is not installed.
        """
        store = open_store(listing.url, anonymous=listing.anonymous)
        return cls(listing, store, parts, beat, again)

    def bring_all(
        self, objects: Sequence[ObjectFacts], folder: Path, update: Callable[[int], None]
    ) -> None:
        """Fetch objects, some at a time, each under its name below a folder.

        Args:
            objects: what is missing there.
            folder: what they are named from.
            update: is told from time to time how many bytes have come.

        Raises:
            ConfigError: the store cannot be asked.
            DataError: an object is gone, changed or damaged.
        """
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(FETCHERS, "fetch") as pool:
            try:
                for one in objects:
                    running.add(pool.submit(self._bring, one, folder / one.name))
                    while len(running) >= 4 * FETCHERS:
                        running = _settle(running)
                        update(self.arrived.bytes)
                while running:
                    running = _settle(running)
                    update(self.arrived.bytes)
            except BaseException:
                # Those that run end at their next block: what they have is gone on with later.
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _bring(self, facts: ObjectFacts, place: Path) -> None:
        """Fetch what is missing of an object, check it, and give it its name."""
        # By version: what is left of another one is not gone on with.
        key = f"{self.listing.url}\n{facts.name}\n{facts.mark}\n{facts.bytes}"
        part = self.parts / sha256(key.encode()).hexdigest()
        for _ in range(_TRIES):
            self._read_on(part, facts)
            if self._stopped.is_set():
                return
            if self._is_sound(part, facts):
                part.chmod(_READ_ONLY)
                place.parent.mkdir(parents=True, exist_ok=True)
                part.replace(place)
                return
            part.unlink()
        raise DataError(
            f"{self.listing.url_of(facts.name)}: arrives damaged: its "
            f"{facts.checksum.partition(':')[0]} is another one than the store says; run again, "
            "and if it stays so put the object there anew"
        )

    def _read_on(self, part: Path, facts: ObjectFacts) -> None:
        """Append to what has arrived."""
        with part.open("ab") as file:
            while (start := file.tell()) < facts.bytes and not self._stopped.is_set():
                block = self._read(facts, start, min(start + BLOCK_BYTES, facts.bytes))
                file.write(block)
                self.arrived.add(len(block))
                os.utime(self.beat)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, facts: ObjectFacts, start: int, end: int) -> bytes:
        url = self.listing.url_of(facts.name)
        path = self.store._strip_protocol(url)
        with explained(url):
            try:
                block: bytes = self.store.cat_file(path, start=start, end=end)
            except OSError:
                self._refuse_change(facts)  # what is gone or shorter has an error of its own
                raise
        if len(block) != end - start:
            self._refuse_change(facts)
            raise DataError(f"{url}: {len(block)} of {end - start} bytes came; run again")
        return block

    def _is_sound(self, part: Path, facts: ObjectFacts) -> bool:
        """Whether what has arrived is the object that was listed."""
        if facts.checksum and has_checksum(part, facts.checksum):
            return True
        self._refuse_change(facts)  # its blocks may be of two versions
        return not facts.checksum or self._has_other_tag(facts)

    def _refuse_change(self, facts: ObjectFacts) -> None:
        """Look at an object again.

        Raises:
            DataError: it is gone, or another one by now.
        """
        url = self.listing.url_of(facts.name)
        with explained(url):
            try:
                now = look_at(self.store, self.store._strip_protocol(url))
            except FileNotFoundError:
                raise DataError(
                    f"{url}: gone since it was listed; look again: {self.again}"
                ) from None
        if mark_of(now) != facts.mark or now["size"] != facts.bytes:
            raise DataError(f"{url}: changed since it was listed; look again: {self.again}")

    def _has_other_tag(self, facts: ObjectFacts) -> bool:
        """Whether an ETag of S3 is no MD5 after all: that of what a customer's key encrypts."""
        if not hasattr(self.store, "call_s3"):
            return False
        url = self.listing.url_of(facts.name)
        bucket, key, _ = self.store.split_path(url)
        with explained(url):
            head = self.store.call_s3("head_object", Bucket=bucket, Key=key)
        encrypted = head.get("ServerSideEncryption", "AES256") != "AES256"
        return encrypted or "SSECustomerAlgorithm" in head


def _settle(running: set[Future[None]]) -> set[Future[None]]:
    """Wait for one of several for a moment; those that are still on their way.

    Raises:
        PlumblineError: one has failed.
    """
    done, left = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
