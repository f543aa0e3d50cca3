"""Numbering and counting of distinct byte strings that do not grow in memory."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path


class DiskIndex:
    """Give each distinct key the next number, 0, 1, ...; keys live in a temporary SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open a new, empty index at `path`; the caller removes the file."""
        self._db = _connect(path)
        self._db.execute("CREATE TABLE keys (key BLOB PRIMARY KEY, number INT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self._size = 0

    def __len__(self) -> int:
        """How many distinct keys have been seen."""
        return self._size

    def number(self, key: bytes) -> tuple[int, bool]:
        """Return the key's number, and whether it is new."""
        row = self._db.execute("SELECT number FROM keys WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return int(row[0]), False
        number = self._size
        self._db.execute("INSERT INTO keys VALUES (?, ?)", (key, number))
        self._size += 1
        return number, True

    def close(self) -> None:
        """Release the file."""
        self._db.close()


class DiskCounter:
    """Count keys as a Counter does; the counts live in a temporary SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open a new, empty counter at `path`; the caller removes the file."""
        self._db = _connect(path)
        self._db.execute("CREATE TABLE counts (key BLOB PRIMARY KEY, count INT) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def __len__(self) -> int:
        """How many distinct keys have been counted."""
        return int(self._db.execute("SELECT COUNT(*) FROM counts").fetchone()[0])

    def add(self, key: bytes, count: int = 1) -> None:
        """Count a key."""
        self.add_many([(key, count)])

    def add_many(self, counts: Iterable[tuple[bytes, int]]) -> None:
        """Count keys, each so often."""
        self._db.executemany(
            "INSERT INTO counts VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET count = count + excluded.count",
            counts,
        )

    def most_frequent(self, limit: int) -> list[tuple[bytes, int]]:
        """The keys that were counted most often; of equal ones the first in byte order."""
        return self._db.execute(
            "SELECT key, count FROM counts ORDER BY count DESC, key LIMIT ?", (limit,)
        ).fetchall()

    def in_order(self, start: bytes) -> Iterator[tuple[bytes, int]]:
        """The keys that begin with some bytes, the last below 255, with their counts, in order."""
        end = start[:-1] + bytes([start[-1] + 1])
        yield from self._db.execute(
            "SELECT key, count FROM counts WHERE key >= ? AND key < ? ORDER BY key", (start, end)
        )

    def close(self) -> None:
        """Release the file."""
        self._db.close()


def open_scratch(path: Path) -> sqlite3.Connection:
    """Open a new SQLite file that is thrown away; sorting spills into its folder."""
    database = sqlite3.connect(path, isolation_level=None)
    # A sort that outgrows its cache must not spill to a system folder, which may be memory.
    # SQLite keeps this setting for the whole process, so `close_scratch` takes it back.
    database.execute(f"PRAGMA temp_store_directory = '{_quote(path.parent)}'")
    for setting in (
        "journal_mode = OFF",
        "synchronous = OFF",
        "cache_size = -4096",
        "temp_store = FILE",
        "locking_mode = EXCLUSIVE",
    ):
        database.execute(f"PRAGMA {setting}")
    return database


def close_scratch(database: sqlite3.Connection) -> None:
    """Release a file of `open_scratch`."""
    database.close()
    with closing(sqlite3.connect(":memory:")) as other:
        other.execute("PRAGMA temp_store_directory = ''")


def _quote(path: Path) -> str:
    # SQLite takes names as UTF-8, whatever the locale makes of them.
    return os.fsencode(path.resolve()).decode("utf-8").replace("'", "''")


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
        database.execute(f"PRAGMA {setting}")
    return database
