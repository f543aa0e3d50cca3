"""Pass one of validation: what can be said of each row on its own.

The work is done once per distinct value of a batch. Lists over distinct values end with an entry
for the null cell, so that the row value -1 picks it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.validation.content import CONTENT
from plumbline.validation.faults import Fault
from plumbline.validation.image_check import ImageLimits, check_image, too_many_bytes
from plumbline.validation.splits import hash_unit
from plumbline.validation.text_check import clean_text, is_blank, too_many_text_bytes
from plumbline.validation.verdicts import SPLIT_CODES, RowVerdict, VerdictStore

MAX_KEY_BYTES = 2**16
"""A longer sample_id or group is refused; ids of some thousand characters are not."""

_GOOD, _NULL, _FAULTY = 0, 1, 2


class Rules(NamedTuple):
    """What rows are judged by."""

    columns: Sequence[str]
    """Content columns, in canonical order; bit i of a mask stands for the i-th."""
    views: Mapping[str, Sequence[str]]
    """View name -> the columns it needs; bit i of a mask stands for the i-th."""
    images: ImageLimits
    max_text_chars: int
    seed: int

    def max_cell_bytes(self, column: str) -> int:
        """Length above which a cell is a fault and is not even looked at."""
        if column not in CONTENT:
            return MAX_KEY_BYTES
        if CONTENT[column] == "image":
            return self.images.max_bytes
        return 4 * self.max_text_chars + 3  # the longest UTF-8, and a byte order mark


class _Column(NamedTuple):
    """A column of a batch, judged by its distinct values."""

    rows: NDArray[np.int64]
    """[rows]: position of each row's value in the lists."""
    values: list[bytes | None]
    """None for a value that is too long, and at the end."""
    faults: list[Fault | None]
    digests: list[bytes | None]
    """Of sample_ids and images; of no use in other columns."""

    def ranks(self) -> NDArray[np.int64]:
        """Say of each row whether its cell is good, null or faulty: [rows]."""
        by_value = [_GOOD if fault is None else _FAULTY for fault in self.faults[:-1]]
        return np.array([*by_value, _NULL])[self.rows]

    def row_faults(self) -> Iterator[Fault | None]:
        return map(self.faults.__getitem__, self.rows.tolist())


class RowJudge:
    """Judges batches of raw rows; each distinct image is decoded once over all batches."""

    def __init__(self, rules: Rules, store: VerdictStore) -> None:
        """Judge by `rules`; `store` remembers the images that have been looked at."""
        self._rules = rules
        self._store = store
        self._view_masks = [
            sum(1 << rules.columns.index(name) for name in view) for view in rules.views.values()
        ]
        self._next_number = 0
        self.splits_seen: set[str] = set()
        """Splits that some row names, good or bad."""

    def judge(self, batch: pa.RecordBatch) -> Iterator[RowVerdict]:
        """Judge the next rows; `batch` has the columns as `iter_encoded_batches` gives them."""
        ids, groups, splits = (_judge_keys(batch, name) for name in ("sample_id", "group", "split"))
        content = {name: self._judge_content(batch, name) for name in self._rules.columns}
        ranks = np.stack([column.ranks() for column in content.values()])
        views, blank = self._find_masks(ranks)
        codes = self._split_codes(splits)
        identities = self._identify(ids, groups, content, ranks)
        key_faults = zip(ids.row_faults(), splits.row_faults(), groups.row_faults(), strict=True)
        for row, (found, identity) in enumerate(zip(key_faults, identities, strict=True)):
            fault = found[0] or found[1] or found[2]
            if fault is None and not views[row]:
                fault = _blame(content.values(), ranks[:, row], row)
            verdict = RowVerdict(self._next_number, codes[row], *identity, views[row], blank[row])
            yield verdict if fault is None else verdict.reject(fault)
            self._next_number += 1

    def _judge_content(self, batch: pa.RecordBatch, name: str) -> _Column:
        cells = distinct_cells(batch.column(name), self._rules.max_cell_bytes(name))
        digests: list[bytes | None] = []
        if CONTENT[name] == "image":
            digests = [None if value is None else _digest(value) for value in cells.values]
            faults = [*self._judge_images(cells, digests), Fault("null_image", "null")]
        else:
            faults = [*self._judge_texts(cells), Fault("null_text", "null")]
        named = [fault and fault._replace(detail=f"{name}: {fault.detail}") for fault in faults]
        return _Column(cells.row_value, [*cells.values, None], named, [*digests, None])

    def _judge_texts(self, cells: DistinctCells) -> Iterator[Fault | None]:
        limit = self._rules.max_text_chars
        for value, length in zip(cells.values, cells.lengths, strict=True):
            found = (
                too_many_text_bytes(length, limit) if value is None else clean_text(value, limit)
            )
            yield found if isinstance(found, Fault) else None

    def _judge_images(
        self, cells: DistinctCells, digests: Sequence[bytes | None]
    ) -> Iterator[Fault | None]:
        for value, digest, length in zip(cells.values, digests, cells.lengths, strict=True):
            if value is None or digest is None:
                yield too_many_bytes(length, self._rules.images)
                continue
            if self._rules.images.level != "full":  # looking again is cheaper than looking it up
                yield check_image(value, self._rules.images)
                continue
            known, fault = self._store.find_image(digest)
            if not known:
                fault = check_image(value, self._rules.images)
                self._store.add_image(digest, fault)
            yield fault

    def _find_masks(self, ranks: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Find, as bit masks per row, the views it satisfies and the cells it must lose."""
        bits = (1 << np.arange(len(ranks)))[:, None]
        good = ((ranks == _GOOD) * bits).sum(axis=0)
        views = np.zeros(ranks.shape[1], np.int64)
        for number, mask in enumerate(self._view_masks):
            views |= ((good & mask) == mask).astype(np.int64) << number
        blank: list[int] = ((ranks == _FAULTY) * bits).sum(axis=0).tolist()
        return views.tolist(), blank

    def _split_codes(self, splits: _Column) -> list[int | None]:
        names = [(value or b"").decode("ascii", "replace") for value in splits.values]
        self.splits_seen.update(name for name in names if name in SPLIT_CODES)
        codes = [SPLIT_CODES.get(name) for name in names]
        return [codes[value] for value in splits.rows.tolist()]

    def _identify(
        self,
        ids: _Column,
        groups: _Column,
        content: Mapping[str, _Column],
        ranks: NDArray[np.int64],
    ) -> Iterator[tuple[bytes | None, bytes | None, float]]:
        """Yield each row's digests of id and image, and its group's place in the split hash."""
        seed = self._rules.seed
        image_rows = np.full(len(ids.rows), -1)
        digests: list[bytes | None] = [None]
        for (name, column), rank in zip(content.items(), ranks, strict=True):
            if CONTENT[name] == "image":
                image_rows = np.where(rank == _GOOD, column.rows, -1)
                digests = column.digests
        by_image = [None if d is None else hash_unit(image_group(d), seed) for d in digests]
        by_group = [hash_unit(key, seed) if key and key.strip() else None for key in groups.values]
        rows = zip(ids.rows.tolist(), groups.rows.tolist(), image_rows.tolist(), strict=True)
        for identity, group, image in rows:
            place = by_group[group]
            if place is None:
                place = by_image[image]
            if place is None:
                place = hash_unit(ids.values[identity] or b"", seed)
            yield ids.digests[identity], digests[image], place


def image_group(digest: bytes) -> str:
    """Name the group of rows that bring no group but share an image."""
    return f"image:{digest.hex()}"


def _judge_keys(batch: pa.RecordBatch, name: str) -> _Column:
    if name not in batch.schema.names:
        return _Column(np.full(batch.num_rows, -1), [None], [None], [None])
    cells = distinct_cells(batch.column(name), MAX_KEY_BYTES)
    faults = [_judge_key(name, value) for value in cells.values]
    null = None
    digests: list[bytes | None] = []
    if name == "sample_id":
        null = Fault("missing_id", "null")
        digests = [None if value is None else _digest(value) for value in cells.values]
    return _Column(cells.row_value, [*cells.values, None], [*faults, null], [*digests, None])


def _judge_key(name: str, value: bytes | None) -> Fault | None:
    if name == "split":
        known = value is not None and value.decode("ascii", "replace") in ("", *SPLIT_CODES)
        shown = "a long text" if value is None else repr(value.decode("utf-8", "replace")[:40])
        return None if known else Fault("bad_split", f"{shown} is none of train, val and test")
    if value is None:
        return Fault("unsafe_id", f"{name}: longer than {MAX_KEY_BYTES} bytes")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("bad_encoding", f"{name}: not UTF-8 at byte {error.start}: {error.reason}")
    if name == "sample_id" and is_blank(text):
        return Fault("missing_id", "only blanks or invisible characters" if text else "empty")
    return None


def _blame(content: Iterable[_Column], ranks: NDArray[np.int64], row: int) -> Fault | None:
    """Choose what to name for a row that no view can use: a real fault before a mere null."""
    for rank in (_FAULTY, _NULL):
        for column, found in zip(content, ranks, strict=True):
            if found == rank:
                return column.faults[int(column.rows[row])]
    return None


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
