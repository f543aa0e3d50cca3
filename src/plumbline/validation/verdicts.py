"""What is remembered of every row between the two passes of validation: some 40 bytes.

Rows are numbered in (sorted file, row) order. All that is remembered is arrays; of ids and contents
a number, which equal ones share. Arrays that outgrow memory lie in files of a private folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.validation.digests import Bools, Bytes, Longs, from_column, name_groups
from plumbline.validation.key_codes import KeyCodes, row_array
from plumbline.validation.notes import REASONS, text_key
from plumbline.validation.splits import hash_units

Numbers = NDArray[np.int32 | np.int64]
"""Of rows or of what they hold: as wide as there are rows."""
NONE = -1
LEAK, REPEATED = REASONS.index("split_leak"), REASONS.index("duplicate_id")

WHY = (
    "the same sample_id",
    "the same {medium}",
    "the same texts",
    "nearly the same image",
    "nearly the same texts",
)
"""Why a row may not stay beside another one; `medium` is the column of its own."""
SAME_ID, SAME_MEDIUM, SAME_TEXTS, NEAR_IMAGE, NEAR_TEXTS = range(len(WHY))


class Slice(NamedTuple):
    """What pass two needs to know of some rows, beside their notes."""

    split: NDArray[np.int8]
    """[rows]: code; -1 for a bad row that brings none."""
    reason: NDArray[np.int8]
    """[rows]: number of the reason; -1 for a good row."""
    why: NDArray[np.int8]
    """[rows]: place in `WHY`; -1 where the notes say it."""
    other: Numbers
    """[rows]: number of the row because of which this one may not stay, or -1."""


class Contents(NamedTuple):
    """Numbers of what rows hold; one of them may hold several."""

    codes: Numbers
    """[rows]: of the first; -1 for none."""
    distinct: int
    """How many ones."""
    units: NDArray[np.float64]
    """[distinct]: places in the split hash; empty where none are asked for."""
    more_rows: Longs
    """[more]: rows that hold more than one, in order, once for each of the others."""
    more_codes: Longs
    """[more]: what they hold."""

    def held(self, chosen: Bools) -> tuple[Longs, Numbers]:
        """Rows, in order, and what they hold: of the `chosen` ones [rows]."""
        rows = np.flatnonzero(chosen & (self.codes >= 0))
        codes = self.codes[rows]
        if not len(self.more_rows):
            return rows, codes
        more = np.flatnonzero(chosen[self.more_rows])
        rows = np.concatenate((rows, self.more_rows[more]))
        codes = np.concatenate((codes, self.more_codes[more]))
        order = np.argsort(rows, kind="stable")
        return rows[order], codes[order]

    def firsts(self, chosen: Bools) -> Numbers:
        """The first of the `chosen` rows [rows] that holds each; -1 where none does: [distinct]."""
        found = np.full(self.distinct, NONE, self.codes.dtype)
        rows, codes = self.held(chosen)
        found[codes[::-1]] = rows[::-1]  # of several the last that is written stays
        return found

    def meet(self, first: Numbers, rows: Longs) -> Longs:
        """The row in `first` [distinct] that holds what some `rows` hold, or -1: [rows].

        That of what a row holds first counts, or else the first row for what else it holds.
        """
        codes = self.codes[rows]
        met = np.where(codes >= 0, np.append(first, NONE)[codes], NONE).astype(np.int64)
        if len(self.more_rows):
            others = first[self.more_codes]
            hits = np.flatnonzero((others >= 0) & np.isin(self.more_rows, rows))
            least = np.full(len(rows), np.iinfo(np.int64).max)
            np.minimum.at(least, np.searchsorted(rows, self.more_rows[hits]), others[hits])
            met = np.where((met < 0) & (least < np.iinfo(np.int64).max), least, met)
        return met


class Verdicts:
    """Verdicts of all rows, in the order of the rows."""

    def __init__(self, folder: Path, rows: int, texts: Sequence[str] = ()) -> None:
        """Expect the notes of so many rows; `texts` are columns whose cells are compared."""
        self.rows = rows
        self._folder, self._end = folder, 0
        self._number: type[np.int32 | np.int64] = np.int32 if rows < 2**31 else np.int64
        self.split = row_array(folder, rows, np.int8, NONE)
        self.reason = row_array(folder, rows, np.int8, NONE)
        self.why = row_array(folder, rows, np.int8, NONE)
        self.other = row_array(folder, rows, self._number, NONE)
        self.place = row_array(folder, rows, np.float64, np.nan)
        """[rows]: of the row's group in the split hash, once `settle_places` has run."""
        self.grouped = row_array(folder, rows, np.bool_)
        """[rows]: whether it names a group of its own."""
        self._keys = {
            "id": KeyCodes(folder, 16, rows),
            "medium": KeyCodes(folder, 17, rows),
            "content": KeyCodes(folder, 16, rows),
            **{text_key(name): KeyCodes(folder, 16, rows) for name in texts},
        }
        self._more: list[tuple[Longs, Bytes]] = []
        self._found: dict[str, Contents] = {}

    def add(self, notes: pa.Table) -> None:
        """Remember the next rows; `notes` as `notes_schema` says."""
        start, stop = self._end, self._end + len(notes)
        for name, missing in (("split", NONE), ("reason", NONE), ("place", np.nan)):
            getattr(self, name)[start:stop] = _numbers(notes, name, missing)
        self.grouped[start:stop] = _numbers(notes, "grouped", False)
        for name, keys in self._keys.items():
            values, there = from_column(_whole(notes, name))
            rows = np.flatnonzero(there)
            keys.add(rows + start, values[rows])
        more = _whole(notes, "more")
        if more.null_count < len(more):
            rows = np.flatnonzero(more.is_valid().to_numpy(zero_copy_only=False))
            lengths = more.value_lengths().fill_null(0).to_numpy()[rows]
            values, _ = from_column(more.flatten())
            self._more.append((np.repeat(rows + start, lengths), values))
        self._end = stop

    @property
    def good(self) -> Bools:
        """Which rows may stay so far: [rows]."""
        good: Bools = self.reason == NONE
        return good

    def in_split(self, code: int) -> Bools:
        """Which rows of a split may stay so far: [rows]."""
        chosen: Bools = self.good & (self.split == code)
        return chosen

    def number_all(self, seed: int | None) -> None:
        """Give numbers to ids and contents, once all rows are there.

        Args:
            seed: of the split hash, where rows need places in it.
        """
        more = [np.concatenate(part) for part in zip(*self._more, strict=True)]
        rows = more[0] if more else np.zeros(0, np.int64)
        # Beside first media, in the same numbers; a row may have one twice.
        if more:
            self._keys["medium"].add(self.rows + np.arange(len(rows)), more[1])
        self._more.clear()
        units = {"medium": _medium_units, "content": _content_units}
        for name, keys in self._keys.items():
            behind = rows if name == "medium" else rows[:0]
            codes = row_array(self._folder, self.rows + len(behind), self._number, NONE)
            count, found = 0, [np.zeros(0)]
            for distinct in keys.distinct(codes):
                count += len(distinct)
                if seed is not None and name in units:
                    found.append(units[name](distinct, seed))
            first, others = codes[: self.rows], codes[self.rows :].astype(np.int64)
            self._found[name] = Contents(first, count, np.concatenate(found), behind, others)
        if seed is not None:
            for contents in (self.media, self.texts):
                rows = np.flatnonzero(np.isnan(self.place) & (contents.codes >= 0))
                self.place[rows] = contents.units[contents.codes[rows]]

    @property
    def has_more(self) -> bool:
        """Whether some row has several media."""
        return bool(self._more)

    @property
    def ids(self) -> Contents:
        """What sample_ids are the same."""
        return self._found["id"]

    @property
    def media(self) -> Contents:
        """What images, clips and arrays are the same."""
        return self._found["medium"]

    @property
    def texts(self) -> Contents:
        """Of rows without a medium, which have the same texts."""
        return self._found["content"]

    def cells(self, column: str) -> Contents:
        """What cells of a column of texts are the same."""
        return self._found[text_key(column)]

    def reject(self, rows: Longs, reason: int, why: int, others: Longs) -> None:
        """Give `rows` a reason for which they may not stay beside `others`, one for each."""
        self.reason[rows], self.why[rows], self.other[rows] = reason, why, others

    def slice(self, start: int, stop: int) -> Slice:
        """What has been decided of some rows."""
        rows = slice(start, stop)
        return Slice(self.split[rows], self.reason[rows], self.why[rows], self.other[rows])


def _whole(notes: pa.Table, name: str) -> pa.Array:
    column = notes.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numbers(notes: pa.Table, name: str, missing: float) -> NDArray[np.generic]:
    numbers: NDArray[np.generic] = _whole(notes, name).fill_null(missing).to_numpy(False)
    return numbers


def _medium_units(distinct: pa.FixedSizeBinaryArray, seed: int) -> NDArray[np.float64]:
    return hash_units(name_groups(distinct).to_pylist(), seed)


def _content_units(distinct: pa.FixedSizeBinaryArray, seed: int) -> NDArray[np.float64]:
    return hash_units(distinct.to_pylist(), seed)
