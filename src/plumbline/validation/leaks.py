"""What splits have in common and should not: what is done about it, and how it is told."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from plumbline.config import Config
from plumbline.data.columns import MEDIA, SHOWN, SPLITS, TEXTS

Policy = Literal["report", "drop", "refuse"]


class LeakConfig(Config):
    """What is done about content that stands in more than one split.

    `drop` takes the rows from train before val before test, `report` counts them, and `refuse` ends
    the stage. A split that is drawn here has none: rows of equal content share a place in the draw,
    near duplicates may be drawn apart.
    """

    media: Policy = "drop"
    """About an image, clip or array; one that is shown in turns too."""
    texts: Policy = "report"
    """About rows without one of which all texts are equal."""
    near_images: Policy | None = None
    """About images that were encoded again, resized, mirrored or cropped by up to a tenth; null
    does not look for them."""
    near_texts: Policy | None = None
    """About rows without a medium whose texts differ in case, punctuation or a few words; null
    does not look for them."""
    near_match: float = Field(default=0.98, gt=0.5, le=1.0)
    """Least correlation of brightness between near duplicates of an image."""
    near_overlap: float = Field(default=0.8, ge=0.5, le=1.0)
    """Least share of the runs of five characters of two near duplicates that both have."""

    def refuses(self, what: str) -> bool:
        """Whether content of a kind that stands in several splits ends the stage."""
        return bool(getattr(self, what, None) == "refuse")


def medium_digest(column: str, value: bytes) -> bytes:
    """Digest of an image, clip or array, which begins with a byte for the column."""
    return bytes([MEDIA.index(column)]) + hashlib.blake2b(value, digest_size=16).digest()


class Place(TypedDict):
    """A row of the raw table."""

    file: str
    row: int


class Example(TypedDict):
    """A row, and one of the other split with the same content."""

    row: Place
    other: Place


class Leak(TypedDict):
    """Rows of one split whose content is in another one too."""

    what: str
    """`media`, `texts` (all of a row's), `near_images`, `near_texts`, or the column whose cells
    are compared alone."""
    split: str
    other: str
    rows: int
    """Of `split`."""
    of: int
    """Rows of `split` that have such content."""
    examples: list[Example]
    """The first; none where cells are compared alone."""


class SharedRows(NamedTuple):
    """What is counted of a pair of splits."""

    split: str
    other: str
    rows: int
    of: int
    examples: list[tuple[int, int]]
    """Numbers of rows."""


def content_digests(
    digests: Sequence[Sequence[bytes | None]], rows: Sequence[NDArray[np.int64]]
) -> Iterator[bytes | None]:
    """Digest of all texts of each row; None where it has none.

    Args:
        digests: of each column the digests of its values, None for a cell that is of no use.
        rows: of each column [rows], the position of each row's value.
    """
    if len(digests) == 1:
        yield from map(digests[0].__getitem__, rows[0].tolist())
        return
    columns = [
        [known[at] for at in places.tolist()] for known, places in zip(digests, rows, strict=True)
    ]
    for cells in zip(*columns, strict=True):
        marked = [bytes([at]) + cell for at, cell in enumerate(cells) if cell is not None]
        yield hashlib.blake2b(b"".join(marked), digest_size=16).digest() if marked else None


_SUM_BY_TEXT = """
CREATE TABLE sums AS SELECT col, digest, split, SUM(rows) AS rows FROM texts
GROUP BY col, digest, split ORDER BY col, digest, split
"""
_SUM_ROWS = "SELECT SUM(rows) FROM sums WHERE col = ? AND split = ?"
_SUM_SHARED = """
SELECT SUM(one.rows) FROM sums one JOIN sums other
ON one.col = other.col AND one.digest = other.digest AND other.split = ?
WHERE one.col = ? AND one.split = ?
"""


class SharedTexts:
    """Counts cells of text columns that stand in several splits, in a temporary SQLite file."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Open a new, empty index at `path`; the caller removes the file."""
        self._columns = [name for name in columns if name in TEXTS]
        if len(self._columns) == 1 and not set(SHOWN) & set(columns):
            self._columns = []  # the cell is all that a row says: its rows are compared
        self._db = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4096"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute(
            "CREATE TABLE texts (col INTEGER, digest BLOB, split INTEGER, rows INTEGER)"
        )
        self._db.execute("BEGIN")

    def add(self, split: str, columns: dict[str, pa.Array]) -> None:
        """Count the cells of clean rows; columns are dictionaries of their distinct values."""
        code = SPLITS.index(split)
        for at, name in enumerate(self._columns):
            column = columns[name]
            used = np.bincount(
                column.indices.drop_null().to_numpy(), minlength=len(column.dictionary)
            )
            self._db.executemany(
                "INSERT INTO texts VALUES (?, ?, ?, ?)",
                (
                    (at, hashlib.blake2b(text.as_buffer(), digest_size=16).digest(), code, rows)
                    for text, rows in zip(column.dictionary, used.tolist(), strict=True)
                    if rows
                ),
            )

    def leaks(self) -> Iterator[Leak]:
        """Rows of each split whose cell stands in another one, column by column."""
        self._db.execute(_SUM_BY_TEXT)
        for at, name in enumerate(self._columns):
            for split, other in SPLIT_PAIRS:
                code, other_code = SPLITS.index(split), SPLITS.index(other)
                (shared,) = self._db.execute(_SUM_SHARED, (other_code, at, code)).fetchone()
                if shared:
                    (rows,) = self._db.execute(_SUM_ROWS, (at, code)).fetchone()
                    yield Leak(
                        what=name, split=split, other=other, rows=shared, of=rows, examples=[]
                    )

    def close(self) -> None:
        """Release the file."""
        self._db.close()


SPLIT_PAIRS = (("test", "val"), ("test", "train"), ("val", "train"))
"""Splits in which a row should meet nothing of the other one."""


def describe_leaks(
    what: str, shared: Iterable[SharedRows], place: Callable[[int], Place]
) -> Iterator[Leak]:
    """What is counted of rows, for the report.

    Args:
        what: `media`, `texts`, `near_images` or `near_texts`.
        shared: counts and examples by pair of splits.
        place: from a row's number to where it stands.
    """
    for found in shared:
        yield Leak(
            what=what,
            split=found.split,
            other=found.other,
            rows=found.rows,
            of=found.of,
            examples=[Example(row=place(one), other=place(other)) for one, other in found.examples],
        )


def tell_leaks(leaks: Sequence[Leak]) -> Iterator[str]:
    """A line for each pair of splits with rows of the same content.

    Of questions, answers and captions alone only the report says how many: they may well repeat.
    """
    whole = {(leak["split"], leak["other"], leak["rows"]) for leak in leaks if _of_rows(leak)}
    for leak in leaks:
        what, split, other = leak["what"], leak["split"], leak["other"]
        share = f"{leak['rows']:,} of {leak['of']:,}"
        if _of_rows(leak):
            yield (
                f"{what} of {share} rows of {split} are in {other} too "
                f"(validate.leaks.{what}: drop takes them from {other})"
            )
        elif what in ("text", "source", "target") and (split, other, leak["rows"]) not in whole:
            yield f"{share} cells {what} of {split} stand in {other} too"


def _of_rows(leak: Leak) -> bool:
    return leak["what"] in LeakConfig.model_fields
