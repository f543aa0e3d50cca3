"""Numbering of distinct byte strings that does not grow in memory."""

import sqlite3
from pathlib import Path


class DiskIndex:
    """Give each distinct key the next number, 0, 1, ...; keys live in a temporary SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open a new, empty index at `path`; the caller removes the file."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("PRAGMA cache_size=-16384")
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
