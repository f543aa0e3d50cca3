"""What is remembered of every row between the two passes of validation, on disk and not in memory.

Rows are numbered in (sorted file, row) order. Pass one stores a verdict for each; the methods here
then decide what only all rows together can tell: splits, repeated ids, and rows that would leak
from one split into another. Pass two reads the verdicts back in order.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from plumbline.data.faults import Fault, Reason
from plumbline.data.splits import PRIORITY

SPLIT_CODES: Mapping[str, int] = {name: code for code, name in enumerate(PRIORITY)}

_TRAIN = SPLIT_CODES["train"]

_SCHEMA = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, split INTEGER, id BLOB, image BLOB, place REAL,
    views INTEGER, blank INTEGER, reason TEXT, detail TEXT, other INTEGER
);
CREATE TABLE images (digest BLOB PRIMARY KEY, reason TEXT, detail TEXT) WITHOUT ROWID;
CREATE TEMP TABLE kept_ids (id BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE kept_images (image BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE drawn (place REAL PRIMARY KEY) WITHOUT ROWID;
"""


class RowVerdict(NamedTuple):
    """What pass one finds out about one row."""

    number: int
    split: int | None
    """Code of the split that the row brings; None where it brings none."""
    id: bytes | None
    """Digest of the sample_id."""
    image: bytes | None
    """Digest of the image; None where the row keeps none."""
    place: float | None
    """Hash of the group in [0, 1), by which splits are drawn; stands for the group itself."""
    views: int
    """Bit mask of the views that the row satisfies."""
    blank: int
    """Bit mask of the content columns whose cell is faulty and not null."""
    reason: Reason | None = None
    """None where the row on its own is fine."""
    detail: str | None = None

    def reject(self, fault: Fault) -> "RowVerdict":
        """Give the reason; such a row takes no part in what all rows together decide."""
        return self._replace(id=None, image=None, place=None, **fault._asdict())


class FinalVerdict(NamedTuple):
    """What pass two needs to know of one row."""

    split: int | None
    image: bytes | None
    blank: int
    reason: str | None
    detail: str | None
    other: int | None
    """Number of the row because of which this one may not stay."""


class VerdictStore:
    """Verdicts of all rows, in a SQLite file in a private folder that the caller removes."""

    def __init__(self, folder: Path) -> None:
        """Create an empty store; sorting spills into the same folder."""
        self._db = sqlite3.connect(folder / "verdicts.sqlite", isolation_level=None)
        # A sort that outgrows its cache must not go to /tmp, which may be memory. SQLite keeps this
        # setting for the whole process, so __exit__ takes it back.
        self._db.execute(f"PRAGMA temp_store_directory = '{_quote(folder)}'")
        for setting in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -4096",
            "temp_store = FILE",
            "locking_mode = EXCLUSIVE",
        ):
            self._db.execute(f"PRAGMA {setting}")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the file."""
        self._db.close()
        with closing(sqlite3.connect(":memory:")) as other:
            other.execute("PRAGMA temp_store_directory = ''")

    def find_image(self, digest: bytes) -> tuple[bool, Fault | None]:
        """Look up an image by digest: whether it has been judged, and its fault."""
        row = self._db.execute(
            "SELECT reason, detail FROM images WHERE digest = ?", (digest,)
        ).fetchone()
        return row is not None, Fault(*row) if row and row[0] else None

    def add_image(self, digest: bytes, fault: Fault | None) -> None:
        """Remember the judgement of an image."""
        self._db.execute("INSERT INTO images VALUES (?, ?, ?)", (digest, *(fault or (None, None))))

    def add_rows(self, rows: Iterable[RowVerdict]) -> None:
        """Store the verdicts of pass one."""
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)

    def pool_unsplit_rows(self) -> int:
        """Put the good rows that bring no split into train, for other splits to draw from."""
        return self._db.execute(
            "UPDATE rows SET split = ? WHERE split IS NULL AND reason IS NULL", (_TRAIN,)
        ).rowcount

    def drop_conflicts(self) -> None:
        """Give every good row a reason that may not stay beside the rows before it.

        Rows count in the order of their split's priority, then of their numbers. A row goes when a
        row that stays has its id, or has its image and lies in another split. As only rows that
        stay count, nothing is dropped for the sake of a row that goes itself.
        """
        self._db.execute("DELETE FROM kept_ids")
        self._db.execute("DELETE FROM kept_images")
        for code in sorted(SPLIT_CODES.values()):
            good = f"split = {code} AND reason IS NULL"
            if not self._one(f"SELECT EXISTS (SELECT 1 FROM rows WHERE {good})"):
                continue
            for column, what in (("id", "the same sample_id"), ("image", "the same image")):
                self._db.execute(
                    f"""UPDATE rows SET reason = 'split_leak', detail = '{what}',
                    other = (SELECT number FROM kept_{column}s k WHERE k.{column} = rows.{column})
                    WHERE {good} AND {column} IN (SELECT {column} FROM kept_{column}s)"""
                )
            self._db.execute(
                f"INSERT INTO kept_ids SELECT id, MIN(number) FROM rows WHERE {good} GROUP BY id"
            )
            self._db.execute(
                f"""UPDATE rows SET reason = 'duplicate_id', detail = 'the same sample_id',
                other = (SELECT number FROM kept_ids k WHERE k.id = rows.id)
                WHERE {good} AND number <> (SELECT number FROM kept_ids k WHERE k.id = rows.id)"""
            )
            if code != _TRAIN:  # there is no split below train that could leak from it
                self._db.execute(
                    f"""INSERT INTO kept_images SELECT image, MIN(number) FROM rows
                    WHERE {good} AND image IS NOT NULL GROUP BY image"""
                )

    def draw_from_train(self, split: str, fraction: float, min_rows: int) -> int:
        """Move whole groups of good rows from train to `val` or `test`, and count the rows moved.

        Val takes the groups at the low end of the hash, test those at the high end, as
        `splits.assign_split` does. Where that gives fewer than `min_rows`, the next groups in hash
        order follow. A group is passed over if it would take more than half of what train has.
        """
        low = split == "val"
        total = self._one(f"SELECT COUNT(*) FROM rows WHERE {_GOOD_TRAIN}")
        groups = self._db.execute(
            f"SELECT place, COUNT(*) FROM rows WHERE {_GOOD_TRAIN} GROUP BY place "
            f"ORDER BY place {'ASC' if low else 'DESC'}"
        )
        self._db.execute("DELETE FROM drawn")
        taken = 0
        for place, rows in groups:
            inside = place < fraction if low else place >= 1 - fraction
            if not inside and taken >= min_rows:
                break
            if 2 * (taken + rows) <= total:
                self._db.execute("INSERT INTO drawn VALUES (?)", (place,))
                taken += rows
        self._db.execute(
            f"UPDATE rows SET split = ? WHERE {_GOOD_TRAIN} AND place IN (SELECT place FROM drawn)",
            (SPLIT_CODES[split],),
        )
        return taken

    def count_rows(self) -> int:
        """Count all rows, good and bad."""
        return self._one("SELECT COUNT(*) FROM rows")

    def count_views(self) -> list[tuple[int, int, int]]:
        """Count the good rows by split code and view mask: (split, views, rows)."""
        return self._db.execute(
            "SELECT split, views, COUNT(*) FROM rows WHERE reason IS NULL "
            "GROUP BY split, views ORDER BY split, views"
        ).fetchall()

    def count_shared_groups(self) -> int:
        """Count the groups that have good rows in more than one split."""
        return self._one(
            "SELECT COUNT(*) FROM (SELECT place FROM rows WHERE reason IS NULL "
            "GROUP BY place HAVING MIN(split) <> MAX(split))"
        )

    def read(self) -> Iterator[FinalVerdict]:
        """Read the verdicts in row order."""
        query = "SELECT split, image, blank, reason, detail, other FROM rows ORDER BY number"
        return map(FinalVerdict._make, self._db.execute(query))

    def _one(self, query: str) -> int:
        (number,) = self._db.execute(query).fetchone()
        return int(number)


_GOOD_TRAIN = f"split = {_TRAIN} AND reason IS NULL"


def _quote(path: Path) -> str:
    return str(path.resolve()).replace("'", "''")
