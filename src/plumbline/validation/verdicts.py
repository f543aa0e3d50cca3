"""What is remembered of every row between the two passes of validation, on disk and not in memory.

Rows are numbered in (sorted file, row) order. Pass one stores a verdict for each; the methods here
then decide what only all rows together can tell: splits, repeated ids, and rows that would leak
from one split into another. Pass two reads the verdicts back in order.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from plumbline.data.columns import MEDIA
from plumbline.validation.faults import Fault, Reason
from plumbline.validation.leaks import SPLIT_PAIRS, SharedRows
from plumbline.validation.splits import PRIORITY, hash_unit

SPLIT_CODES: Mapping[str, int] = {name: code for code, name in enumerate(PRIORITY)}

_TRAIN = SPLIT_CODES["train"]

_SCHEMA = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, split INTEGER, id BLOB, medium BLOB, place REAL,
    views INTEGER, blank INTEGER, content BLOB, grouped INTEGER, reason TEXT, detail TEXT,
    other INTEGER
);
CREATE TABLE more_media (
    number INTEGER, medium BLOB, PRIMARY KEY (number, medium)
) WITHOUT ROWID;
CREATE TEMP TABLE kept_ids (id BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE kept_media (medium BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE kept_texts (content BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE media_names (code BLOB PRIMARY KEY, name TEXT) WITHOUT ROWID;
CREATE TEMP TABLE firsts (
    content BLOB, split INTEGER, number INTEGER, PRIMARY KEY (content, split)
) WITHOUT ROWID;
CREATE TEMP VIEW held AS
    SELECT 'texts' AS what, number, split, content FROM rows
    WHERE reason IS NULL AND content IS NOT NULL
    UNION ALL SELECT 'media', number, split, medium FROM rows
    WHERE reason IS NULL AND medium IS NOT NULL
    UNION ALL SELECT 'media', number, split, more.medium FROM more_media more
    JOIN rows USING (number) WHERE reason IS NULL;
CREATE TEMP TABLE joined (place REAL PRIMARY KEY, same REAL) WITHOUT ROWID;
CREATE TEMP TABLE drawn (place REAL PRIMARY KEY) WITHOUT ROWID;
"""

_DROP_KNOWN_IDS = """
UPDATE rows SET reason = 'split_leak', detail = 'the same sample_id',
other = (SELECT number FROM kept_ids WHERE kept_ids.id = rows.id)
WHERE split = :split AND reason IS NULL AND id IN (SELECT id FROM kept_ids)
"""
_DROP_KNOWN_MEDIA = """
UPDATE rows SET reason = 'split_leak',
detail = 'the same ' || (SELECT name FROM media_names WHERE code = substr(rows.medium, 1, 1)),
other = COALESCE(
    (SELECT number FROM kept_media WHERE kept_media.medium = rows.medium),
    (SELECT MIN(kept_media.number) FROM more_media more JOIN kept_media USING (medium)
    WHERE more.number = rows.number)
)
WHERE split = :split AND reason IS NULL
AND (medium IN (SELECT medium FROM kept_media) OR number IN (
    SELECT more.number FROM more_media more JOIN kept_media USING (medium)
))
"""
_FORGET_KEPT = ("DELETE FROM kept_ids", "DELETE FROM kept_media", "DELETE FROM kept_texts")
_KEEP_FIRST_OF_EACH_ID = """
INSERT INTO kept_ids SELECT id, MIN(number) FROM rows
WHERE split = :split AND reason IS NULL GROUP BY id
"""
_DROP_REPEATED_IDS = """
UPDATE rows SET reason = 'duplicate_id', detail = 'the same sample_id',
other = (SELECT number FROM kept_ids WHERE kept_ids.id = rows.id)
WHERE split = :split AND reason IS NULL
AND number <> (SELECT number FROM kept_ids WHERE kept_ids.id = rows.id)
"""
_KEEP_FIRST_OF_EACH_MEDIUM = """
INSERT OR IGNORE INTO kept_media SELECT medium, MIN(number) FROM (
    SELECT medium, number FROM rows
    WHERE split = :split AND reason IS NULL AND medium IS NOT NULL
    UNION ALL SELECT more.medium, number FROM more_media more JOIN rows USING (number)
    WHERE split = :split AND reason IS NULL
) GROUP BY medium
"""
_DROP_KNOWN_TEXTS = """
UPDATE rows SET reason = 'split_leak', detail = 'the same texts',
other = (SELECT number FROM kept_texts WHERE kept_texts.content = rows.content)
WHERE split = :split AND reason IS NULL AND content IN (SELECT content FROM kept_texts)
"""
_KEEP_FIRST_OF_EACH_TEXT = """
INSERT OR IGNORE INTO kept_texts SELECT content, MIN(number) FROM rows
WHERE split = :split AND reason IS NULL AND content IS NOT NULL GROUP BY content
"""
_SHARED = """
SELECT one.number, MIN(other.number) FROM held one JOIN firsts other
ON one.content = other.content AND other.split = :other
WHERE one.what = :what AND one.split = :split
GROUP BY one.number ORDER BY one.number
"""
_FIND_FIRSTS = """
INSERT INTO firsts SELECT content, split, MIN(number) FROM held WHERE what = :what
GROUP BY content, split
"""
_COUNT_HELD = "SELECT COUNT(DISTINCT number) FROM held WHERE what = :what AND split = :split"
_ANY_GOOD = "SELECT EXISTS (SELECT 1 FROM rows WHERE split = :split AND reason IS NULL)"
_COUNT_GOOD = "SELECT COUNT(*) FROM rows WHERE split = :split AND reason IS NULL"
_GROUP_SIZES = """
SELECT place, COUNT(*) FROM rows WHERE split = :split AND reason IS NULL
GROUP BY place ORDER BY place * :direction
"""
_MOVE_DRAWN = """
UPDATE rows SET split = :to WHERE split = :split AND reason IS NULL
AND place IN (SELECT place FROM drawn)
"""
_MORE_MEDIA = """
SELECT rows.place, more.medium FROM more_media more JOIN rows USING (number)
WHERE reason IS NULL ORDER BY number, more.medium
"""
_JOIN_PLACES = """
UPDATE rows SET place = (SELECT same FROM joined WHERE joined.place = rows.place)
WHERE place IN (SELECT place FROM joined)
"""
_COUNT_SHARED_GROUPS = """
SELECT COUNT(*) FROM (SELECT place FROM rows WHERE reason IS NULL AND grouped
GROUP BY place HAVING MIN(split) <> MAX(split))
"""


class RowVerdict(NamedTuple):
    """What pass one finds out about one row."""

    number: int
    split: int | None
    """Code of the split that the row brings; None where it brings none."""
    id: bytes | None
    """Digest of the sample_id within its part."""
    medium: bytes | None
    """Digest of the image, clip or array, of several images of the first; None where the row keeps
    none."""
    place: float | None
    """Hash of the group in [0, 1), by which splits are drawn; stands for the group itself."""
    views: int
    """Bit mask of the views that the row satisfies."""
    blank: int
    """Bit mask of the content columns whose cell is faulty and not null."""
    content: bytes | None = None
    """Digest of all texts of a row without a medium; None where it has neither."""
    grouped: bool = False
    """Whether the row names a group of its own."""
    reason: Reason | None = None
    """None where the row on its own is fine."""
    detail: str | None = None

    def reject(self, fault: Fault) -> "RowVerdict":
        """Give the reason; such a row takes no part in what all rows together decide."""
        return self._replace(id=None, medium=None, place=None, content=None, **fault._asdict())


class FinalVerdict(NamedTuple):
    """What pass two needs to know of one row."""

    split: int | None
    medium: bytes | None
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
        # A sort that outgrows its cache must not spill to a system folder, which may be memory.
        # SQLite keeps this setting for the whole process, so __exit__ takes it back.
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
        # The first byte of a medium's digest says which column it comes from.
        self._db.executemany(
            "INSERT INTO media_names VALUES (?, ?)",
            ((bytes([code]), name) for code, name in enumerate(MEDIA)),
        )
        self._db.execute("BEGIN")

    @property
    def connection(self) -> sqlite3.Connection:
        """To the file, for what else is remembered of rows."""
        return self._db

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

    def add_more_media(self, media: Iterable[tuple[int, bytes]]) -> None:
        """Store the media of good rows behind their first ones: (number, digest)."""
        self._db.executemany("INSERT OR IGNORE INTO more_media VALUES (?, ?)", media)

    def add_rows(self, rows: Iterable[RowVerdict], start: int = 0) -> None:
        """Store the verdicts of pass one; their numbers count from `start`."""
        self._db.executemany(
            f"INSERT INTO rows VALUES (? + {start:d}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",  # noqa: S608
            rows,
        )

    def join_places(self, place_of: Callable[[bytes], float]) -> None:
        """Give good rows that share a medium one place, through however many others they do.

        Args:
            place_of: the place of rows that have a medium as their first.
        """
        joined: dict[float, float] = {}

        def find(place: float) -> float:
            while joined.setdefault(place, place) != place:
                joined[place] = place = joined[joined[place]]
            return place

        for place, medium in self._db.execute(_MORE_MEDIA):
            one, other = find(place), find(place_of(medium))
            joined[max(one, other)] = min(one, other)
        # The least of several numbers is no draw between 0 and 1, but a hash of it is.
        found = ((place, hash_unit(repr(find(place)), 0)) for place in list(joined))
        self._db.executemany("INSERT INTO joined VALUES (?, ?)", found)
        self._db.execute(_JOIN_PLACES)

    def pool_unsplit_rows(self) -> int:
        """Put the good rows that bring no split into train, for other splits to draw from."""
        return self._db.execute(
            "UPDATE rows SET split = ? WHERE split IS NULL AND reason IS NULL", (_TRAIN,)
        ).rowcount

    def drop_conflicts(self, *, media: bool = True, texts: bool = False) -> None:
        """Give every good row a reason that may not stay beside the rows before it.

        Rows count in the order of their split's priority, then of their numbers. A row goes when a
        row that stays has its id, or has its content and lies in another split. As only rows that
        stay count, nothing is dropped for the sake of a row that goes itself.

        Args:
            media: whether a row goes for its medium.
            texts: whether a row goes for its texts.
        """
        for forget in _FORGET_KEPT:
            self._db.execute(forget)
        for code in sorted(SPLIT_CODES.values()):
            split = {"split": code}
            if not self._one(_ANY_GOOD, split):
                continue
            self._db.execute(_DROP_KNOWN_IDS, split)
            if media:
                self._db.execute(_DROP_KNOWN_MEDIA, split)
            if texts:
                self._db.execute(_DROP_KNOWN_TEXTS, split)
            self._db.execute(_KEEP_FIRST_OF_EACH_ID, split)
            self._db.execute(_DROP_REPEATED_IDS, split)
            if code != _TRAIN:  # there is no split below train that could leak from it
                self._db.execute(_KEEP_FIRST_OF_EACH_MEDIUM, split)
                self._db.execute(_KEEP_FIRST_OF_EACH_TEXT, split)

    def draw_from_train(self, split: str, fraction: float, min_rows: int) -> int:
        """Move whole groups of good rows from train to `val` or `test`, and count the rows moved.

        Val takes the groups at the low end of the hash, test those at the high end: a group keeps
        its split when rows are added, and a larger test fraction takes groups from train alone.
        Where that gives fewer than `min_rows`, the next groups in hash order follow. A group is
        passed over if it would take more than half of what train has.
        """
        low = split == "val"
        train = {"split": _TRAIN}
        total = self._one(_COUNT_GOOD, train)
        self._db.execute("DELETE FROM drawn")
        taken = 0
        for place, rows in self._db.execute(_GROUP_SIZES, {**train, "direction": 1 if low else -1}):
            inside = place < fraction if low else place >= 1 - fraction
            if not inside and taken >= min_rows:
                break
            if 2 * (taken + rows) <= total:
                self._db.execute("INSERT INTO drawn VALUES (?)", (place,))
                taken += rows
        self._db.execute(_MOVE_DRAWN, {**train, "to": SPLIT_CODES[split]})
        return taken

    def find_shared(self, what: str, examples: int) -> Iterator[SharedRows]:
        """Find good rows of one split whose content is in another one, by pair of splits.

        Args:
            what: `media` or `texts`.
            examples: how many rows are named of a pair.
        """
        self.find_firsts(what)
        for one, other in SPLIT_PAIRS:
            codes: dict[str, int | str] = {
                "what": what,
                "split": SPLIT_CODES[one],
                "other": SPLIT_CODES[other],
            }
            found = self._db.execute(_SHARED, codes)
            if named := found.fetchmany(examples):
                rows = len(named) + sum(1 for _ in found)
                yield SharedRows(one, other, rows, self.count_held(what, one), named)

    def find_firsts(self, what: str) -> None:
        """Fill the table `firsts`: the first good row of each content and split."""
        self._db.execute("DELETE FROM firsts")
        self._db.execute(_FIND_FIRSTS, {"what": what})

    def count_held(self, what: str, split: str) -> int:
        """Count the good rows of a split that have such content."""
        return self._one(_COUNT_HELD, {"what": what, "split": SPLIT_CODES[split]})

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
        return self._one(_COUNT_SHARED_GROUPS)

    def read(self) -> Iterator[FinalVerdict]:
        """Read the verdicts in row order."""
        query = "SELECT split, medium, blank, reason, detail, other FROM rows ORDER BY number"
        return map(FinalVerdict._make, self._db.execute(query))

    def _one(self, query: str, parameters: Mapping[str, int | str] | None = None) -> int:
        (number,) = self._db.execute(query, parameters or {}).fetchone()
        return int(number)


def _quote(path: Path) -> str:
    # SQLite takes names as UTF-8, whatever the locale makes of them.
    return os.fsencode(path.resolve()).decode("utf-8").replace("'", "''")
