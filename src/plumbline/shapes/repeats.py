"""Rows that repeat another, and inputs about which rows of one part disagree."""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from plumbline.data.columns import MEDIA, TEXTS
from plumbline.shapes.described import Described, Shapes

TARGETS = ("label", "value")
"""Columns of which an input of one part should have one value."""


class Repeats:
    """Counts both by split over digests in a temporary SQLite file, so memory does not grow."""

    def __init__(self, path: Path) -> None:
        """Open a new, empty index at `path`; the caller removes the file."""
        self._db = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE whole (digest BLOB PRIMARY KEY, split) WITHOUT ROWID")
        self._db.execute(
            "CREATE TABLE inputs (digest BLOB PRIMARY KEY, split, part, target, several)"
            " WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._rows: dict[str, int] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Look at the rows of a batch."""
        self._rows[split] = self._rows.get(split, 0) + batch.num_rows
        cells = {name: _digests(batch.column(name)) for name in batch.schema.names}
        nothing = [b""] * batch.num_rows
        parts = cells.get("part", nothing)
        inputs = nothing
        # Of each row its medium, or else its conversation or its first text.
        for name in (*MEDIA, "turns", *TEXTS):
            there = cells.get(name, nothing)
            inputs = [one or other for one, other in zip(inputs, there, strict=True)]
        names = batch.column("part").to_pylist() if "part" in cells else nothing
        rows = zip(*cells.values(), strict=True)
        self._db.executemany(
            "INSERT OR IGNORE INTO whole VALUES (?, ?)",
            ((_digest(split.encode(), *row), split) for row in rows),
        )
        for target in [name for name in TARGETS if name in cells]:
            found = zip(inputs, parts, names, batch.column(target).to_pylist(), strict=True)
            self._db.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?, ?, 0) ON CONFLICT (digest) "
                "DO UPDATE SET several = 1 WHERE target != excluded.target",
                (
                    (
                        _digest(split.encode(), target.encode(), part, of),
                        *(split, name or ""),
                        value if target == "label" else float(value),
                    )
                    for of, part, name, value in found
                    if of and value is not None
                ),
            )

    def describe(self) -> Described:
        """What there is of both; nothing where there is none.

        Returns:
            repeated_rows: split -> rows that equal another one before them; contradictions: part ->
            split -> inputs with several labels or values.
        """
        distinct = dict(self._db.execute("SELECT split, count(*) FROM whole GROUP BY split"))
        repeated = {
            split: rows - distinct[split]
            for split, rows in self._rows.items()
            if rows > distinct.get(split, 0)
        }
        contradictions: dict[str, dict[str, int]] = {}
        query = (
            "SELECT part, split, sum(several) FROM inputs GROUP BY part, split HAVING sum(several)"
        )
        for part, split, count in self._db.execute(query):
            contradictions.setdefault(part, {})[split] = count
        found: Described = {}
        if repeated:
            found["repeated_rows"] = repeated
        if contradictions:
            found["contradictions"] = contradictions
        return found

    def close(self) -> None:
        """Release the file."""
        self._db.close()


def _digest(*cells: bytes) -> bytes:
    """Of cells that are digests themselves or empty."""
    return hashlib.blake2b(b"\0".join(cells), digest_size=16).digest()


def _digests(column: pa.Array) -> list[bytes]:
    """Of each cell, b"" where there is none; equal cells of a batch are hashed once."""
    encoded = column.dictionary_encode()
    known = [
        hashlib.blake2b(value.as_buffer(), digest_size=16).digest() for value in encoded.dictionary
    ]
    return [b"" if at is None else known[at] for at in encoded.indices.to_pylist()]


def describe_repeats(shapes: Shapes) -> Iterator[str]:
    """A line for the repeated rows of shapes.json, and one per part and split that disagrees."""
    rows = shapes["rows"]
    if repeated := shapes.get("repeated_rows"):
        counts = ", ".join(f"{split} {count} of {rows[split]}" for split, count in repeated.items())
        yield f"rows that repeat another one, each of which counts: {counts}"
    for part, by_split in shapes.get("contradictions", {}).items():
        counts = ", ".join(f"{split} {count}" for split, count in by_split.items())
        of_part = f" in part {part!r}" if part else ""
        yield f"inputs with several labels or values{of_part}, all of which count: {counts}"
