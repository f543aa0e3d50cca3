"""Pass one of validation: what can be said of each row on its own, column by column.

The work is done once per distinct value of a batch, and only for values that are not good beyond
doubt one by one; what it says of rows is gathered by arrays. No row is a Python object.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.data.columns import CONTENT, KEYS, MEDIA, SHOWN, TEXTS
from plumbline.data.library_lines import library_lines
from plumbline.errors import DataError
from plumbline.validation.cells import CellRules, clean_cells
from plumbline.validation.digests import (
    Bools,
    Bytes,
    Longs,
    as_column,
    digest_all,
    digest_media,
    key_within,
    make_counted_keys,
    make_keys,
)
from plumbline.validation.faults import Fault
from plumbline.validation.features_check import find_other_widths
from plumbline.validation.judged import FAULTY, GOOD, NULL, Judged, RowFaults
from plumbline.validation.judged_keys import has_group, judge_key
from plumbline.validation.leaks import compared_texts, medium_digest
from plumbline.validation.memo import JudgedMedium, MediaMemo
from plumbline.validation.near import Prints
from plumbline.validation.notes import Notes, notes_schema, text_key
from plumbline.validation.rules import Rules
from plumbline.validation.shown_check import check_images, first_image
from plumbline.validation.shown_rows import ShownRows
from plumbline.validation.splits import SPLIT_CODES, hash_units

MAX_PARTS = 1000
"""More parts than a dataset can be meant to have: each gets labels and figures of its own."""

SAID = (*TEXTS, "turns")
"""Columns of which all together are what a row without a medium is about."""


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
        self._schema = notes_schema(compared_texts(rules.columns))
        self._batches: list[pa.RecordBatch] = []
        self._seen = Notes(self._schema.empty_table())

    @property
    def notes(self) -> Notes:
        """Of all rows that have been judged."""
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        return Notes(table, self._seen.splits, self._seen.parts, self._seen.lines)

    def judge(self, batch: pa.RecordBatch) -> None:
        """Judge the next rows; `batch` has the columns as `iter_encoded_batches` gives them.

        Raises:
            DataError: there are more parts than a dataset can have.
        """
        ids, groups, splits, parts = (judge_key(batch, name) for name in KEYS)
        self._note_parts(parts)
        content = {name: self._judge_content(batch, name, parts) for name in self._rules.columns}
        ranks = {name: column.ranks() for name, column in content.items()}
        views, blank = self._find_masks(list(ranks.values()))
        media = _Media(content, ranks)
        shown = ShownRows(content, ranks)
        faults = RowFaults(batch.num_rows)
        for column in (ids, splits, groups, parts):
            faults.blame(column)
        _blame_content(faults, content, ranks, views)
        _blame_media(faults, media)
        shown.blame(faults)
        good = faults.good
        texts = {name: content[name] for name in content if name in SAID}
        said, has_said = _digest_texts(texts, ranks, good & ~media.there)
        place, grouped = self._find_places(ids, groups, good & ~media.there & ~has_said)
        reason, detail = faults.columns()
        columns = {
            "split": self._split_codes(splits),
            "id": as_column(_id_keys(ids, parts, good), good),
            "medium": as_column(media.digests, media.there & good),
            "content": as_column(said, has_said),
            "place": pa.array(place, mask=~good | np.isnan(place)),
            "grouped": grouped,
            "views": views,
            "blank": blank,
            "altered": _altered_mask(content),
            "reason": reason,
            "detail": detail,
            "more": shown.others(good, self._schema.field("more").type),
            "prints": self._print_texts(texts, said, has_said),
        }
        for name in compared_texts(self._rules.columns):
            column, is_good = content[name], ranks[name] == GOOD
            keys = np.concatenate((make_counted_keys(column.cells), np.zeros((1, 16), np.uint8)))
            columns[text_key(name)] = as_column(keys[column.rows], is_good)
        self._batches.append(pa.RecordBatch.from_pydict(columns, self._schema))
        self._memo.save()

    def _note_parts(self, parts: Judged) -> None:
        for at in range(len(parts.cells.starts)):
            if at not in parts.faults and (name := parts.cells.value(at)):
                self._seen.parts.add(name.decode())
        check_parts(self._seen.parts)

    def _judge_content(self, batch: pa.RecordBatch, name: str, parts: Judged) -> Judged:
        rules = self._rules.of(name)
        cells = distinct_cells(batch.column(name))
        rows, digests, altered = cells.row_value, None, dict[int, bytes]()
        if rules.clean is not None:
            found = clean_cells(cells, rules)
            faults, altered = found.faults, found.altered(cells)
            cells = cells.replaced(altered)
        else:
            if name == "images":
                rules = rules._replace(check=partial(check_images, judge=self._judge_image))
            digests = self._digest(name, cells, rules)
            faults = dict(self._judge_media(cells, digests, rules))
        if CONTENT[name] == "features":
            faults |= self._judge_widths(cells, faults)
        if CONTENT[name] == "label" and self._rules.labels:
            rows, faults = self._judge_labels(cells, faults, parts)
        faults[-1] = Fault(rules.null, "null")
        named = {
            at: fault._replace(detail=f"{name}: {fault.detail}") for at, fault in faults.items()
        }
        return Judged(rows, cells, named, digests, altered.keys())

    def _digest(self, name: str, cells: DistinctCells, rules: CellRules) -> Bytes | None:
        """Digests of media that are looked up; of those that are too long they are of no use."""
        if not rules.costly:
            return None
        digests = np.zeros((len(cells.starts), 17), np.uint8)
        fit = np.flatnonzero(cells.lengths <= rules.max_bytes)
        digests[fit] = digest_media(name, cells.views(fit))
        self._memo.load(map(bytes, digests[fit]))
        return digests

    def _judge_media(
        self, cells: DistinctCells, digests: Bytes | None, rules: CellRules
    ) -> Iterator[tuple[int, Fault]]:
        for at in rules.doubtful(cells):
            if (length := int(cells.lengths[at])) > rules.max_bytes:
                fault: Fault | None = rules.too_long(length)
            elif digests is None:
                fault = rules.check(cells.value(at))
            else:
                fault = self._judge_once(cells.value(at), bytes(digests[at]), rules)
            if fault:
                yield at, fault

    def _judge_once(self, value: bytes, digest: bytes, rules: CellRules) -> Fault | None:
        found = self._memo.find(digest)
        if found is None:
            before = library_lines()
            fault = rules.check(value)
            found = JudgedMedium(fault, library_lines() - before, self._prints.take())
            self._memo.add(digest, found)
        if found.lines:
            self._seen.lines[digest] = found.lines
        return found.fault

    def _judge_image(self, value: bytes) -> Fault | None:
        """Judge an image of turns as one of the column `image`, once over all rows."""
        rules = self._rules.kinds["image"]
        if len(value) > rules.max_bytes:
            return rules.too_long(len(value))
        if not rules.costly:
            return rules.check(value)
        return self._judge_once(value, medium_digest("image", value), rules)

    def _judge_widths(self, cells: DistinctCells, faults: Mapping[int, Fault]) -> dict[int, Fault]:
        good = [None if at in faults else cells.value(at) for at in range(len(cells.starts))]
        others, _ = find_other_widths(good, cells.row_value.tolist(), self._rules.channels)
        return others

    def _judge_labels(
        self, cells: DistinctCells, faults: Mapping[int, Fault], parts: Judged
    ) -> tuple[Longs, dict[int, Fault]]:
        """Judge labels by the part of their row: positions of the rows' faults, and the faults."""
        values = [cells.value(at) for at in range(len(cells.starts))]  # in their clean form
        width = len(values) + 1
        used, rows = np.unique((parts.rows + 1) * width + cells.row_value + 1, return_inverse=True)
        judged: dict[int, Fault] = {}
        for at, code in enumerate(used.tolist()):
            part, label = code // width - 1, code % width - 1
            name = b"" if part < 0 else parts.cells.value(part)
            allowed = self._rules.labels.get(name.decode("utf-8", "replace"))
            if label in faults:
                judged[at] = faults[label]
            elif label >= 0 and allowed and (text := values[label].decode()) not in allowed:
                judged[at] = Fault("bad_label", f"{text[:40]!r} is none of the {len(allowed)}")
        return np.where(cells.row_value < 0, -1, rows), judged

    def _find_masks(self, ranks: Sequence[NDArray[np.int8]]) -> tuple[Longs, Longs]:
        """Find, as bit masks per row, the views it satisfies and the cells it must lose."""
        good, blank, views = (np.zeros(len(ranks[0]), np.int64) for _ in range(3))
        for bit, rank in enumerate(ranks):
            good |= (rank == GOOD).astype(np.int64) << bit
            blank |= (rank == FAULTY).astype(np.int64) << bit
        for number, mask in enumerate(self._view_masks):
            views |= ((good & mask) == mask).astype(np.int64) << number
        return views, blank

    def _split_codes(self, splits: Judged) -> pa.Array:
        names = [splits.cells.value(at) for at in range(len(splits.cells.starts))]
        known = [name.decode("ascii", "replace") for name in names]
        self._seen.splits.update(name for name in known if name in SPLIT_CODES)
        codes = [SPLIT_CODES.get(name) for name in known]
        return pa.array([*codes, None], pa.int8()).take(pa.array(splits.rows % (len(codes) + 1)))

    def _find_places(
        self, ids: Judged, groups: Judged, lone: Bools
    ) -> tuple[NDArray[np.float64], Bools]:
        """Place rows in the split hash by their group, or `lone` ones [rows] by their id."""
        seed = self._rules.seed
        named = has_group(groups.cells)
        used = np.flatnonzero(named)
        of_value = np.full(len(named) + 1, np.nan)
        of_value[used] = hash_units(groups.cells.views(used), seed)
        place = of_value[groups.rows]
        grouped = np.append(named, False)[groups.rows]
        rows = np.flatnonzero(lone & ~grouped)
        place[rows] = hash_units(ids.cells.views(ids.rows[rows]), seed)
        return place, grouped

    def _print_texts(self, texts: Mapping[str, Judged], said: Bytes, has_said: Bools) -> pa.Array:
        kind = self._schema.field("prints").type
        if not self._prints.of_text_rows:
            return pa.nulls(len(said), kind)
        prints: list[list[bytes] | None] = [None] * len(said)
        for row in np.flatnonzero(has_said).tolist():
            good = {name: column.good(row) for name, column in texts.items()}
            prints[row] = self._prints.of_texts(good)
        return pa.array(prints, kind)


class _Media:
    """The medium of each row of a batch."""

    def __init__(
        self, content: Mapping[str, Judged], ranks: Mapping[str, NDArray[np.int8]]
    ) -> None:
        rows = len(next(iter(ranks.values())))
        self.digests: Bytes = np.zeros((rows, 17), np.uint8)
        """[rows, 17]: of the row's first good medium."""
        self.there: Bools = np.zeros(rows, bool)
        """[rows]: whether it has one; a good cell may hold no image."""
        self.counts = np.zeros(rows, np.int64)
        """[rows]: how many good media the row has."""
        for name in (name for name in content if name in SHOWN):
            column, good = content[name], ranks[name] == GOOD
            first = np.flatnonzero(good & (self.counts == 0))
            self.digests[first], self.there[first] = _digest_used(name, column, column.rows[first])
            self.counts += good


def _blame_content(
    faults: RowFaults,
    content: Mapping[str, Judged],
    ranks: Mapping[str, NDArray[np.int8]],
    views: Longs,
) -> None:
    """Choose what to name for rows that no view can use: a real fault before a mere null."""
    for rank in (FAULTY, NULL):
        for name, column in content.items():
            faults.blame(column, (views == 0) & (ranks[name] == rank))


def _blame_media(faults: RowFaults, media: _Media) -> None:
    if (media.counts > 1).any():
        fault = Fault("two_media", f"a row has one of {', '.join(MEDIA)} at most")
        faults.give(np.where(media.counts > 1, 0, -1), {0: fault})


def _altered_mask(content: Mapping[str, Judged]) -> Longs:
    """Bit masks of the cells that are not in their clean form: [rows]."""
    bits = [
        column.is_altered().astype(np.int64) << bit for bit, column in enumerate(content.values())
    ]
    mask: Longs = np.bitwise_or.reduce(bits)
    return mask


def _digest_used(name: str, column: Judged, places: Longs) -> tuple[Bytes, Bools]:
    """Digests of the media at some places of a column, [places, 17], and where there is one."""
    if column.digests is not None:
        return column.digests[places], np.ones(len(places), bool)
    used, rows = _count_off(places)
    if name != "images":
        return digest_media(name, column.cells.views(used))[rows], np.ones(len(places), bool)
    firsts = [first_image(column.cells.value(at)) for at in used.tolist()]
    there = np.array([first is not None for first in firsts], bool)
    return digest_media("image", [first or b"" for first in firsts])[rows], there[rows]


def _digest_texts(
    texts: Mapping[str, Judged], ranks: Mapping[str, NDArray[np.int8]], wanted: Bools
) -> tuple[Bytes, Bools]:
    """Digests of all good texts of the `wanted` rows [rows]: [rows, 16], and which have any."""
    said, has_said = np.zeros((len(wanted), 16), np.uint8), np.zeros(len(wanted), bool)
    rows = np.flatnonzero(wanted)
    if not len(rows) or not texts:
        return said, has_said
    # Each text behind the number of its column; what is missing leaves no gap.
    cells = np.zeros((len(rows), len(texts), 17), np.uint8)
    there = np.zeros((len(rows), len(texts)), bool)
    for at, (name, column) in enumerate(texts.items()):
        there[:, at] = ranks[name][rows] == GOOD
        used, places = _count_off(column.rows[rows[there[:, at]]])
        cells[:, at, 0] = at
        cells[there[:, at], at, 1:] = digest_all(column.cells.views(used))[places]
    has_said[rows] = there.any(axis=1)
    if len(texts) == 1:
        said[rows] = cells[:, 0, 1:]
        return said, has_said
    joined = memoryview(cells[there].tobytes())
    ends = 17 * np.cumsum(there.sum(axis=1))
    bounds = map(slice, [0, *ends.tolist()], ends.tolist())
    said[rows] = digest_all(map(joined.__getitem__, bounds))
    return said, has_said


def _id_keys(ids: Judged, parts: Judged, good: Bools) -> Bytes:
    """Keys of sample_ids within their parts: [rows, 16]."""
    keys = np.concatenate((make_keys(ids.cells), np.zeros((1, 16), np.uint8)))[ids.rows]
    in_part = np.append(parts.cells.lengths > 0, False)[parts.rows]
    for row in np.flatnonzero(good & in_part).tolist():
        part = parts.cells.value(parts.rows[row])
        keys[row] = np.frombuffer(key_within(keys[row].tobytes(), part), np.uint8)
    return keys


def _count_off(places: Longs) -> tuple[Longs, Longs]:
    """The distinct places, in order, and for each of `places` where it stands among them."""
    is_used = np.zeros(int(places.max(initial=-1)) + 1, bool)
    is_used[places] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[places]
