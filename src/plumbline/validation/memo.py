"""What was found out about each distinct medium, shared by the processes that judge rows."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

from plumbline.validation.faults import Fault

_WAIT_S = 600.0
"""For another process to save a batch, which takes milliseconds."""
_ASKED = 500
"""Media to a query."""
_MOST_KNOWN = 2**14
"""Media that are held in memory, or somewhat more."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS media (
    digest BLOB PRIMARY KEY, reason TEXT, detail TEXT, lines INTEGER, print BLOB
) WITHOUT ROWID
"""


class JudgedMedium(NamedTuple):
    """What a look at a medium came to: a pure function of its bytes and the rules."""

    fault: Fault | None
    lines: int
    """That decoders wrote about it."""
    print: bytes | None
    """By which near duplicates are found; None where none are looked for."""


class MediaMemo:
    """Media by digest, in a SQLite file that several processes may have open.

    Two of them may judge one medium at the same moment; they find the same.
    """

    def __init__(self, path: Path) -> None:
        """Use a file, which is opened when something is asked or saved."""
        self._path = path
        self._new: dict[bytes, JudgedMedium] = {}
        self._known: dict[bytes, JudgedMedium | None] = {}

    def connect(self) -> Self:
        """Open the file, and create it where there is none; what is damaged begins anew."""
        assert self._db, "a connection"
        return self

    @cached_property
    def _db(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.OperationalError:  # it is in use, or the disk fails
            raise
        except sqlite3.DatabaseError:  # no such file any more, as after a loss of power
            for file in self._path.parent.glob(f"{self._path.name}*"):
                file.unlink(missing_ok=True)
            return _connect(self._path)

    def load(self, digests: Iterable[bytes]) -> None:
        """Look up together what `find` will be asked for."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        wanted = [digest for digest in dict.fromkeys(digests) if digest not in self._known]
        for start in range(0, len(wanted), _ASKED):
            some = wanted[start : start + _ASKED]
            self._known.update(dict.fromkeys(some))
            places = ",".join("?" * len(some))
            for digest, reason, detail, lines, value in self._db.execute(
                f"SELECT * FROM media WHERE digest IN ({places})",  # noqa: S608
                some,
            ):
                fault = Fault(reason, detail) if reason else None
                self._known[digest] = JudgedMedium(fault, lines, value)

    def find(self, digest: bytes) -> JudgedMedium | None:
        """What is known of a medium; None: nothing."""
        if (found := self._new.get(digest)) is not None:
            return found
        if digest not in self._known:
            self.load([digest])
        return self._known[digest]

    def add(self, digest: bytes, judged: JudgedMedium) -> None:
        """Remember a medium, for others from the next `save` on."""
        self._new[digest] = self._known[digest] = judged

    def save(self) -> None:
        """Let all processes, and a later run, know what has been added."""
        if not self._new:
            return
        rows = [
            (digest, *(judged.fault or (None, None)), judged.lines, judged.print)
            for digest, judged in self._new.items()
        ]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR IGNORE INTO media VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        self._new.clear()

    def prints(self) -> Iterator[tuple[bytes, bytes]]:
        """Digests and prints of all media that have one."""
        return self._db.execute("SELECT digest, print FROM media WHERE print IS NOT NULL")

    def close(self) -> None:
        """Release the file."""
        if "_db" in vars(self):
            self._db.close()


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")  # readers do not wait for who saves
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
        with closing(database.execute("SELECT * FROM media LIMIT 1")) as rows:
            rows.fetchone()
    except BaseException:
        database.close()
        raise
    return database
