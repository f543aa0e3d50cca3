"""Near duplicates between splits: what is remembered of contents in pass one, and done about it."""

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING

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
from plumbline.validation.verdicts import SPLIT_CODES, VerdictStore

if TYPE_CHECKING:
    from PIL import Image

BLOCK = 2**14
"""Contents of val and test that are held at a time."""
CHUNK = 2**12
"""Contents of all splits that are held at a time, to be compared with a block."""

_SCHEMA = (
    "CREATE TABLE prints (content BLOB PRIMARY KEY, print BLOB) WITHOUT ROWID",
    "CREATE TABLE near (content BLOB, other BLOB, PRIMARY KEY (content, other)) WITHOUT ROWID",
    "CREATE TEMP TABLE lost (number INTEGER PRIMARY KEY, other INTEGER)",
)
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
_DROP = """
UPDATE rows SET reason = 'split_leak', detail = :detail,
other = (SELECT other FROM lost WHERE lost.number = rows.number)
WHERE number IN (SELECT number FROM lost)
"""

_Pairs = Iterator[tuple[bytes, bytes]]
_DETAILS = {"media": "nearly the same image", "texts": "nearly the same texts"}


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

    def of_texts(self, content: bytes | None, cells: Mapping[str, bytes | None]) -> list[bytes]:
        """What is to be remembered of the texts of a good row.

        Args:
            content: digest of them all; None: the row is not one of texts.
            cells: by column; None where there is none, or none of use.
        """
        if content is None or not self._texts:
            return []
        return [
            zlib.compress(text.encode("utf-8", "surrogatepass"), 1)
            for text in near_texts.long_enough(chain.from_iterable(_said(cells)))
        ]


class NearRows:
    """Near duplicates between splits, by the settings that are on; with none it does nothing."""

    def __init__(self, store: VerdictStore, config: LeakConfig) -> None:
        """Remember contents beside the verdicts of `store`."""
        self._db: sqlite3.Connection = store.connection
        self._store, self._config = store, config
        policies = {"media": config.near_images, "texts": config.near_texts}
        self._on = {what: policy for what, policy in policies.items() if policy}
        self._finders: dict[str, Callable[[], _Pairs]] = {
            "media": self._find_images,
            "texts": self._find_texts,
        }
        if self._on:
            for statement in _SCHEMA:
                self._db.execute(statement)

    def remember(self, prints: Iterable[tuple[bytes, bytes]]) -> None:
        """Take what `Prints` gave, by digest of the content; of one content the first counts."""
        if self._on:
            self._db.executemany("INSERT OR IGNORE INTO prints VALUES (?, ?)", prints)

    def settle(self) -> None:
        """Find near duplicates among good rows, and drop those that may not stay."""
        for what, policy in self._on.items():
            self._db.executemany(
                "INSERT OR IGNORE INTO near VALUES (?, ?)", _both_ways(self._finders[what]())
            )
            if policy == "drop":
                for other, split in (("test", "val"), ("test", "train"), ("val", "train")):
                    self._drop(what, split, other)

    def _drop(self, what: str, split: str, other: str) -> None:
        self._store.find_firsts(what)
        self._db.execute("DELETE FROM lost")
        self._db.execute(f"INSERT INTO lost {_NEAR}", _codes(what, split, other))
        self._db.execute(_DROP, {"detail": _DETAILS[what]})

    def leaks(self, examples: int, place: Callable[[int], Place]) -> Iterator[Leak]:
        """Rows with near duplicates in another split, for the report."""
        names = {"media": "near_images", "texts": "near_texts"}
        for what in self._on:
            yield from describe_leaks(names[what], self._shared(what, examples), place)

    def _shared(self, what: str, examples: int) -> Iterator[SharedRows]:
        self._store.find_firsts(what)
        for one, other in SPLIT_PAIRS:
            found = self._db.execute(_NEAR, _codes(what, one, other))
            if named := found.fetchmany(examples):
                rows = len(named) + sum(1 for _ in found)
                yield SharedRows(one, other, rows, self._store.count_held(what, one), named)

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
