"""Near duplicates between splits: what is remembered of contents in pass one, and done about it."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from plumbline.data.disk_index import close_scratch, open_scratch
from plumbline.data.turns import parse_turns
from plumbline.validation import near_texts
from plumbline.validation.leaks import (
    SPLIT_PAIRS,
    Leak,
    LeakConfig,
    Place,
    SharedRows,
    describe_leaks,
)
from plumbline.validation.splits import SPLIT_CODES
from plumbline.validation.verdicts import LEAK, NEAR_IMAGE, NEAR_TEXTS, Verdicts

if TYPE_CHECKING:
    from PIL import Image

BLOCK = 2**14
"""Contents of val and test that are held at a time."""
CHUNK = 2**12
"""Contents of all splits that are held at a time, to be compared with a block."""

_SCHEMA = """
CREATE TABLE prints (content BLOB PRIMARY KEY, print BLOB) WITHOUT ROWID;
CREATE TABLE near (content BLOB, other BLOB, PRIMARY KEY (content, other)) WITHOUT ROWID;
CREATE TABLE contents (what TEXT, number INTEGER, content BLOB);
CREATE TABLE good (number INTEGER PRIMARY KEY, split INTEGER);
CREATE TABLE firsts (
    content BLOB, split INTEGER, number INTEGER, PRIMARY KEY (content, split)
) WITHOUT ROWID;
CREATE TEMP VIEW held AS
    SELECT what, number, split, content FROM contents JOIN good USING (number);
"""
_FIND_FIRSTS = """
INSERT INTO firsts SELECT content, split, MIN(number) FROM held WHERE what = :what
GROUP BY content, split
"""
_COUNT_HELD = "SELECT COUNT(DISTINCT number) FROM held WHERE what = :what AND split = :split"
_READ = """
SELECT content, print FROM prints
JOIN (SELECT DISTINCT content FROM held WHERE what = :what AND split IN (:one, :two, :three))
USING (content) ORDER BY content
"""
_NEAR = """
SELECT one.number, MIN(other.number) FROM held one JOIN near ON near.content = one.content
JOIN firsts other ON other.content = near.other AND other.split = :other
WHERE one.what = :what AND one.split = :split GROUP BY one.number ORDER BY one.number
"""
_Pairs = Iterator[tuple[bytes, bytes]]
_WHY = {"media": NEAR_IMAGE, "texts": NEAR_TEXTS}
_COLUMNS = {"media": "medium", "texts": "content"}
_INSERT_ROWS = 2**14


class Prints:
    """What is remembered of contents in pass one, by the settings that are on."""

    def __init__(self, config: LeakConfig) -> None:
        """Remember nothing yet."""
        self._images, self._texts = bool(config.near_images), bool(config.near_texts)
        self._seen: bytes | None = None

    @property
    def look(self) -> "Callable[[bytes, Image.Image], None] | None":
        """What is to be shown each distinct image as it is decoded; None: none."""
        return self._see if self._images else None

    def _see(self, data: bytes, image: "Image.Image") -> None:
        from plumbline.validation.near_images import fingerprint  # needs Pillow

        self._seen = fingerprint(image)

    def take(self) -> bytes | None:
        """What is to be remembered of the image that has just been shown; None: none was."""
        seen, self._seen = self._seen, None
        return seen

    @property
    def of_text_rows(self) -> bool:
        """Whether anything is remembered of rows of texts."""
        return self._texts

    def of_texts(self, cells: Mapping[str, bytes | None]) -> list[bytes]:
        """What is to be remembered of the texts of a good row.

        Args:
            cells: by column; None where there is none, or none of use.
        """
        return [
            zlib.compress(text.encode("utf-8", "surrogatepass"), 1)
            for text in near_texts.long_enough(chain.from_iterable(_said(cells)))
        ]


class NearRows:
    """Near duplicates between splits, by the settings that are on; with none it does nothing.

    What is compared lies in a SQLite file of a private folder, since it outgrows memory.
    """

    def __init__(self, folder: Path, config: LeakConfig) -> None:
        """Remember contents in `folder`, which the caller removes."""
        self._config = config
        policies = {"media": config.near_images, "texts": config.near_texts}
        self._on = {what: policy for what, policy in policies.items() if policy}
        self._finders: dict[str, Callable[[], _Pairs]] = {
            "media": self._find_images,
            "texts": self._find_texts,
        }
        if self._on:
            self._db = open_scratch(folder / "near.sqlite")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN")

    def close(self) -> None:
        """Release the file."""
        if self._on:
            close_scratch(self._db)

    def remember(self, prints: Iterable[tuple[bytes, bytes]]) -> None:
        """Take what `Prints` gave, by digest of the content; of one content the first counts."""
        if self._on:
            self._db.executemany("INSERT OR IGNORE INTO prints VALUES (?, ?)", prints)

    def add(self, notes: pa.Table, start: int) -> None:
        """Take what is noted of the contents of rows, which are numbered from `start` on."""
        for what in self._on:
            contents = notes.column(_COLUMNS[what]).to_pylist()
            lists = notes.column("more" if what == "media" else "prints").to_pylist()
            held = [(row, content) for row, content in enumerate(contents) if content]
            if what == "media":
                held += ((row, each) for row, more in enumerate(lists) for each in more or ())
            else:
                self.remember(
                    (content, each)
                    for content, prints in zip(contents, lists, strict=True)
                    for each in prints or ()
                )
            self._db.executemany(
                "INSERT INTO contents VALUES (?, ?, ?)",
                ((what, start + row, content) for row, content in dict.fromkeys(held)),
            )

    def settle(self, verdicts: Verdicts) -> None:
        """Find near duplicates among good rows, and drop those that may not stay."""
        if not self._on:
            return
        for start in range(0, verdicts.rows, _INSERT_ROWS):
            rows = start + np.flatnonzero(verdicts.good[start : start + _INSERT_ROWS])
            pairs = zip(rows.tolist(), verdicts.split[rows].tolist(), strict=True)
            self._db.executemany("INSERT INTO good VALUES (?, ?)", pairs)
        for what, policy in self._on.items():
            self._db.executemany(
                "INSERT OR IGNORE INTO near VALUES (?, ?)", _both_ways(self._finders[what]())
            )
            if policy == "drop":
                for other, split in (("test", "val"), ("test", "train"), ("val", "train")):
                    self._drop(verdicts, what, split, other)

    def _drop(self, verdicts: Verdicts, what: str, split: str, other: str) -> None:
        self._find_firsts(what)
        lost = self._db.execute(_NEAR, _codes(what, split, other)).fetchall()
        rows, others = (np.array([pair[at] for pair in lost], np.int64) for at in (0, 1))
        verdicts.reject(rows, LEAK, _WHY[what], others)
        self._db.executemany("DELETE FROM good WHERE number = ?", ((row,) for row, _ in lost))

    def leaks(self, examples: int, place: Callable[[int], Place]) -> Iterator[Leak]:
        """Rows with near duplicates in another split, for the report."""
        names = {"media": "near_images", "texts": "near_texts"}
        for what in self._on:
            yield from describe_leaks(names[what], self._shared(what, examples), place)

    def _find_firsts(self, what: str) -> None:
        """Fill the table `firsts`: the first good row of each content and split."""
        self._db.execute("DELETE FROM firsts")
        self._db.execute(_FIND_FIRSTS, {"what": what})

    def _shared(self, what: str, examples: int) -> Iterator[SharedRows]:
        self._find_firsts(what)
        for one, other in SPLIT_PAIRS:
            found = self._db.execute(_NEAR, _codes(what, one, other))
            if named := found.fetchmany(examples):
                rows = len(named) + sum(1 for _ in found)
                held = {"what": what, "split": SPLIT_CODES[one]}
                (of,) = self._db.execute(_COUNT_HELD, held).fetchone()
                yield SharedRows(one, other, rows, int(of), named)

    def _find_images(self) -> _Pairs:
        from plumbline.validation.near_images import NearImages, make_block

        for block in self._read("media", "test", "val"):
            finder = NearImages(make_block([value for _, value in block]), self._config.near_match)
            for chunk in self._read("media", *SPLIT_CODES, rows=CHUNK):
                for here, there in finder.find(make_block([value for _, value in chunk])):
                    yield block[here][0], chunk[there][0]

    def _find_texts(self) -> _Pairs:
        for block in self._read("texts", "test", "val"):
            finder = near_texts.NearTexts(_texts(block), self._config.near_overlap)
            for chunk in self._read("texts", *SPLIT_CODES, rows=CHUNK):
                for here, there in finder.find(_texts(chunk)):
                    yield block[here][0], chunk[there][0]

    def _read(
        self, what: str, *splits: str, rows: int = BLOCK
    ) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
        """Contents that good rows of some splits have, and what is remembered of them."""
        codes = dict.fromkeys(("one", "two", "three"), -1)
        codes.update(zip(codes, map(SPLIT_CODES.__getitem__, splits), strict=False))
        found = self._db.execute(_READ, {"what": what, **codes})
        while block := tuple(islice(found, rows)):
            yield block


def _said(cells: Mapping[str, bytes | None]) -> Iterator[list[str]]:
    for name, cell in cells.items():
        text = (cell or b"").decode("utf-8", "replace")
        if cell and name == "turns":
            yield [turn["content"] for turn in parse_turns(text)]
        elif cell:
            yield [text]


def _texts(entries: tuple[tuple[bytes, bytes], ...]) -> list[str]:
    return [zlib.decompress(value).decode("utf-8", "surrogatepass") for _, value in entries]


def _both_ways(pairs: _Pairs) -> _Pairs:
    for one, other in pairs:
        if one != other:
            yield one, other
            yield other, one


def _codes(what: str, split: str, other: str) -> dict[str, int | str]:
    return {"what": what, "split": SPLIT_CODES[split], "other": SPLIT_CODES[other]}
