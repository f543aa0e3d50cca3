"""Pass one of validation: what can be said of each row on its own.

The work is done once per distinct value of a batch. Lists over distinct values end with an entry
for the null cell, so that the row value -1 picks it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.data.columns import CONTENT, KEYS, MEDIA, SHOWN, TEXTS
from plumbline.data.library_lines import library_lines
from plumbline.errors import DataError
from plumbline.names import RULE, is_name
from plumbline.validation.cells import CellRules, judge_texts
from plumbline.validation.faults import Fault
from plumbline.validation.features_check import find_other_widths
from plumbline.validation.leaks import content_digests, medium_digest
from plumbline.validation.memo import JudgedMedium, MediaMemo
from plumbline.validation.near import Prints
from plumbline.validation.notes import Notes
from plumbline.validation.rules import Rules
from plumbline.validation.shown_check import (
    check_images,
    check_places,
    count_places,
    split_images,
)
from plumbline.validation.splits import hash_unit
from plumbline.validation.text_check import CleanText, is_blank
from plumbline.validation.verdicts import SPLIT_CODES, RowVerdict

MAX_KEY_BYTES = 2**16
"""A longer sample_id, group or part is refused; ids of some thousand characters are not."""
MAX_PARTS = 1000
"""More parts than a dataset can be meant to have: each gets labels and figures of its own."""

SAID = (*TEXTS, "turns")
"""Columns of which all together are what a row without a medium is about."""

_GOOD, _NULL, _FAULTY = 0, 1, 2


class _Column(NamedTuple):
    """A column of a batch, judged by its distinct values."""

    rows: NDArray[np.int64]
    """[rows]: position of each row's value in the lists."""
    values: list[bytes | None]
    """None for a value that is too long, and at the end."""
    faults: list[Fault | None]
    digests: list[bytes | None]
    """Of sample_ids, media and texts, of several images that of the first; of no use in other
    columns."""

    def ranks(self) -> NDArray[np.int64]:
        """Say of each row whether its cell is good, null or faulty: [rows]."""
        by_value = [_GOOD if fault is None else _FAULTY for fault in self.faults[:-1]]
        return np.array([*by_value, _NULL])[self.rows]

    def good(self, row: int) -> bytes | None:
        """The text of a row; None where it is of no use."""
        at = int(self.rows[row])
        return None if self.digests[at] is None else self.values[at]

    def row_faults(self) -> Iterator[Fault | None]:
        return map(self.faults.__getitem__, self.rows.tolist())


def check_parts(parts: AbstractSet[str]) -> None:
    """Refuse more parts than a dataset can have.

    Raises:
        DataError: another column may have been meant.
    """
    if len(parts) > MAX_PARTS:
        raise DataError(f"column part has more than {MAX_PARTS} names: is it the right column?")


class RowJudge:
    """Judges batches of raw rows; each distinct medium is decoded once over all batches."""

    def __init__(self, rules: Rules, memo: MediaMemo, prints: Prints) -> None:
        """Judge by `rules`; `memo` remembers the media that have been looked at."""
        self._rules = rules
        self._memo = memo
        self._prints = prints
        self._view_masks = [
            sum(1 << rules.columns.index(name) for name in view) for view in rules.views.values()
        ]
        self.notes = Notes()
        """Of all rows that have been judged."""

    def judge(self, batch: pa.RecordBatch) -> None:
        """Judge the next rows; `batch` has the columns as `iter_encoded_batches` gives them.

        Raises:
            DataError: there are more parts than a dataset can have.
        """
        notes = self.notes
        ids, groups, splits, parts = (_judge_keys(batch, name) for name in KEYS)
        self._note_parts(parts)
        content = {name: self._judge_content(batch, name, parts) for name in self._rules.columns}
        ranks = np.stack([column.ranks() for column in content.values()])
        views, blank = self._find_masks(ranks)
        codes = self._split_codes(splits)
        media = _Media(content, ranks)
        texts = {name: column for name, column in content.items() if name in SAID}
        columns = texts.values()
        said = list(content_digests([c.digests for c in columns], [c.rows for c in columns]))
        identities = self._identify(ids, groups, parts, media, said or [None] * batch.num_rows)
        shown = _Shown(content, ranks)
        keys = (column.row_faults() for column in (ids, splits, groups, parts))
        rows = zip(zip(*keys, strict=True), identities, strict=True)
        for row, (key_faults, identity) in enumerate(rows):
            fault = next(filter(None, key_faults), None)
            if fault is None and not views[row]:
                fault = _blame(content.values(), ranks[:, row], row)
            if fault is None and media.counts[row] > 1:
                fault = Fault("two_media", f"a row has one of {', '.join(MEDIA)} at most")
            if fault is None:
                fault = shown.fault(row)
            digest, medium, place, text, grouped = identity
            number = len(notes.rows)
            if fault is None:
                notes.more += [(number, other) for other in shown.others(row)]
                good = {name: column.good(row) for name, column in texts.items()}
                notes.prints += [(number, value) for value in self._prints.of_texts(text, good)]
            verdict = RowVerdict(
                *(number, codes[row], digest, medium, place),
                *(views[row], blank[row], text, grouped),
            )
            notes.rows.append(verdict if fault is None else verdict.reject(fault))
        self._memo.save()

    def _note_parts(self, parts: _Column) -> None:
        for value, fault in zip(parts.values, parts.faults, strict=True):
            if value and fault is None:
                self.notes.parts.add(value.decode())
        check_parts(self.notes.parts)

    def _judge_content(self, batch: pa.RecordBatch, name: str, parts: _Column) -> _Column:
        rules = self._rules.of(name)
        cells = distinct_cells(batch.column(name), rules.max_bytes)
        digests: list[bytes | None] = [None] * len(cells.values)
        if name in MEDIA:
            digests = [None if v is None else medium_digest(name, v) for v in cells.values]
        if name == "images":
            digests = [_first_digest(value) for value in cells.values]
            rules = rules._replace(check=partial(check_images, judge=self._judge_image))
        if name in SAID:
            faults, digests = judge_texts(cells, rules)
        else:
            faults = list(self._judge_cells(cells, digests, rules))
        if CONTENT[name] == "features":
            faults = self._judge_widths(cells, faults)
        row_value = cells.row_value
        if CONTENT[name] == "label" and self._rules.labels:
            row_value, faults = self._judge_labels(cells, faults, parts)
        faults.append(Fault(rules.null, "null"))
        named = [fault and fault._replace(detail=f"{name}: {fault.detail}") for fault in faults]
        return _Column(row_value, [*cells.values, None], named, [*digests, None])

    def _judge_cells(
        self, cells: DistinctCells, digests: Sequence[bytes | None], rules: CellRules
    ) -> Iterator[Fault | None]:
        for value, digest, length in zip(cells.values, digests, cells.lengths, strict=True):
            if value is None:
                yield rules.too_long(length)
                continue
            if digest is None or not rules.costly:
                yield rules.check(value)
            else:
                yield self._judge_once(value, digest, rules)

    def _judge_once(self, value: bytes, digest: bytes, rules: CellRules) -> Fault | None:
        found = self._memo.find(digest)
        if found is None:
            before = library_lines()
            fault = rules.check(value)
            found = JudgedMedium(fault, library_lines() - before, self._prints.take())
            self._memo.add(digest, found)
        if found.lines:
            self.notes.lines[digest] = found.lines
        return found.fault

    def _judge_image(self, value: bytes) -> Fault | None:
        """Judge an image of turns as one of the column `image`, once over all rows."""
        rules = self._rules.kinds["image"]
        if len(value) > rules.max_bytes:
            return rules.too_long(len(value))
        if not rules.costly:
            return rules.check(value)
        return self._judge_once(value, medium_digest("image", value), rules)

    def _judge_widths(
        self, cells: DistinctCells, faults: Sequence[Fault | None]
    ) -> list[Fault | None]:
        good = [None if fault else value for value, fault in zip(cells.values, faults, strict=True)]
        others, _ = find_other_widths(good, cells.row_value.tolist(), self._rules.channels)
        return [others.get(place, fault) for place, fault in enumerate(faults)]

    def _judge_labels(
        self, cells: DistinctCells, faults: Sequence[Fault | None], parts: _Column
    ) -> tuple[NDArray[np.int64], list[Fault | None]]:
        """Judge labels by the part of their row: positions of the rows' faults, and the faults."""
        clean = self._rules.of("label").clean
        assert clean is not None, "labels have a clean form"
        names = [clean(value or b"") for value in cells.values]
        width = len(cells.values) + 1
        used, rows = np.unique((parts.rows + 1) * width + cells.row_value + 1, return_inverse=True)
        judged: list[Fault | None] = []
        for part, label in ((code // width - 1, code % width - 1) for code in used.tolist()):
            part_name = (parts.values[part] or b"").decode("utf-8", "replace")
            allowed = self._rules.labels.get(part_name)
            name = names[label] if label >= 0 else None
            fault = faults[label] if label >= 0 else None
            if allowed and isinstance(name, CleanText) and name.text not in allowed:
                fault = Fault("bad_label", f"{name.text[:40]!r} is none of the {len(allowed)}")
            judged.append(fault)
        return np.where(cells.row_value < 0, -1, rows), judged

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
        self.notes.splits.update(name for name in names if name in SPLIT_CODES)
        codes = [SPLIT_CODES.get(name) for name in names]
        return [codes[value] for value in splits.rows.tolist()]

    def _identify(
        self,
        ids: _Column,
        groups: _Column,
        parts: _Column,
        media: "_Media",
        texts: Sequence[bytes | None],
    ) -> Iterator[tuple[bytes | None, bytes | None, float, bytes | None, bool]]:
        """Yield what a row is known by.

        Digests of id and medium, its place in the split hash, which is that of its group, or else
        of its medium, texts or id; the digest of its texts where it has no medium; and whether it
        names a group.
        """
        seed = self._rules.seed
        by_medium = [None if d is None else hash_unit(medium_group(d), seed) for d in media.digests]
        by_group = [hash_unit(key, seed) if key and key.strip() else None for key in groups.values]
        rows = zip(
            ids.rows.tolist(),
            groups.rows.tolist(),
            parts.rows.tolist(),
            media.rows.tolist(),
            texts,
            strict=True,
        )
        for identity, group, part_row, medium, said in rows:
            place = by_group[group]
            grouped = place is not None
            if place is None:
                place = by_medium[medium]
            if media.digests[medium] is not None:
                said = None
            if place is None:
                place = hash_unit(said or ids.values[identity] or b"", seed)
            digest, part = ids.digests[identity], parts.values[part_row]
            if digest is not None and part:
                digest = _digest(digest + part)  # an id is unique within its part
            yield digest, media.digests[medium], place, said, grouped


class _Media:
    """The medium of each row of a batch."""

    def __init__(self, content: Mapping[str, _Column], ranks: NDArray[np.int64]) -> None:
        rows = ranks.shape[1]
        self.rows = np.full(rows, -1)
        """[rows]: position in `digests` of the row's first good medium."""
        self.counts = np.zeros(rows, np.int64)
        """[rows]: how many good media the row has."""
        self.digests: list[bytes | None] = []
        for (name, column), rank in zip(content.items(), ranks, strict=True):
            if name in SHOWN:
                # Positions count from the front, as -1 is the null at the end of all.
                place = np.where(self.counts > 0, self.rows, len(self.digests) + column.rows)
                self.rows = np.where(rank == _GOOD, place, self.rows)
                self.counts += rank == _GOOD
                self.digests += column.digests
        self.digests.append(None)


class _Shown:
    """The images that the turns of each row of a batch show."""

    def __init__(self, content: Mapping[str, _Column], ranks: NDArray[np.int64]) -> None:
        names = ("turns", "images") if "images" in content else ()
        self._talk = [content[name] for name in names]
        self._ranks = [ranks[list(content).index(name)] for name in names]
        """Of both columns [rows]."""
        self._places: list[int] = []
        self._images: list[list[bytes | None]] = []
        if self._talk:
            turns, images = self._talk
            self._places = list(count_places(turns.values))
            self._images = [split_images(value) for value in images.values]

    def fault(self, row: int) -> Fault | None:
        """Whether there is an image for each place, and a place for each image."""
        if not self._talk:
            return None
        turns, images = (column.rows[row] for column in self._talk)
        is_good = [rank[row] == _GOOD for rank in self._ranks]
        places = self._places[turns] if is_good[0] else 0
        found = check_places(places, len(self._images[images]) if is_good[1] else 0)
        # An image that cannot be used takes turns with it that have no place for it.
        is_lost = found is not None or is_good[0]
        for column, rank in zip(self._talk, self._ranks, strict=True):
            if is_lost and rank[row] == _FAULTY:  # the cell that could not be used is the reason
                return column.faults[int(column.rows[row])]
        return found

    def others(self, row: int) -> list[bytes]:
        """Digests of the images behind the first."""
        if not self._talk or self._ranks[1][row] != _GOOD:
            return []
        images = self._images[self._talk[1].rows[row]][1:]
        return [medium_digest("image", image) for image in images if image]


def _first_digest(cell: bytes | None) -> bytes | None:
    images = [image for image in split_images(cell) if image]
    return medium_digest("image", images[0]) if images else None


def medium_group(digest: bytes) -> str:
    """Name the group of rows that bring no group but share a medium."""
    return f"{MEDIA[digest[0]]}:{digest[1:].hex()}"


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
    if name == "part" and text and not is_name(text):
        # Parts name files, heads and figures.
        return Fault("unsafe_id", f"part: {text[:40]!r} is no name: {RULE}")
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
