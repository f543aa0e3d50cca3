"""Pass two of validation: every raw row goes to a clean table or to the quarantine table."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plumbline.data.byte_columns import cell_view, decode_column, distinct_cells
from plumbline.data.columns import CANONICAL, MEDIA
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.validation.cells import clean_cells
from plumbline.validation.counts import Counts, read_counts
from plumbline.validation.digests import name_groups
from plumbline.validation.examples import cells_of, write_cells
from plumbline.validation.judged_keys import MAX_KEY_BYTES, has_group
from plumbline.validation.leaks import Place
from plumbline.validation.notes import REASONS
from plumbline.validation.rules import Rules
from plumbline.validation.splits import PRIORITY
from plumbline.validation.verdicts import WHY, Slice

QUARANTINE = "rows.parquet"
EXAMPLES = 5

_QUARANTINE_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.string()),
    ]
)
_MAX_SHOWN_ID_CHARS = 200
_QUARANTINED = -1


class RowFiler:
    """Writes `<split>.parquet` and the quarantine table from raw rows and their verdicts."""

    def __init__(
        self,
        clean: Path,
        quarantine: Path,
        rules: Rules,
        file_starts: dict[str, int],
        *,
        has_parts: bool,
        begun: Path | None = None,
    ) -> None:
        """Write below the two folders.

        Args:
            clean: empty folder for the clean tables.
            quarantine: empty folder for the quarantine table.
            rules: those of pass one.
            file_starts: file name -> number of its first row, in order.
            has_parts: whether clean tables have the column `part`.
            begun: a folder of `filed` with tables and counts to go on with; None: begin anew.
        """
        self._clean = clean
        self._rules = rules
        self._files = list(file_starts)
        self._starts = list(file_starts.values())
        self._has_parts = has_parts
        keys = ("sample_id", "group", *(("part",) if has_parts else ()))
        self._schema = pa.schema([(name, CANONICAL[name]) for name in (*keys, *rules.columns)])
        self._writers: dict[str, RowGroupWriter] = {}
        self._begun, self._folder = begun, quarantine
        self._quarantine = RowGroupWriter(
            quarantine / QUARANTINE, _QUARANTINE_SCHEMA, begun=begun and begun / QUARANTINE
        )
        self.counts = read_counts(begun, file_starts) if begun else Counts(file_starts)
        for name in rules.columns:
            if rules.of(name).clean:
                self.counts.cleaned.setdefault(name, Counter())
        for split in self.counts.clean:
            self._open(split)

    def close(self) -> None:
        """Finish all tables."""
        for writer in (*self._writers.values(), self._quarantine):
            writer.close()
        write_cells(self.counts.cells, self._folder)

    def tables(self) -> list[Path]:
        """The files that have been written, once they are closed."""
        return [path for each in (self._clean, self._folder) for path in each.glob("*.parquet")]

    def _open(self, split: str) -> None:
        name = f"{split}.parquet"
        begun = self._begun and self._begun / name
        there = begun if begun and begun.is_file() else None
        self._writers[split] = RowGroupWriter(self._clean / name, self._schema, begun=there)

    def file_rows(
        self, file: str, first_row: int, batch: pa.RecordBatch, notes: pa.Table, decided: Slice
    ) -> None:
        """Write the next rows.

        Args:
            file: that they stand in.
            first_row: where they begin in it.
            batch: the rows.
            notes: what pass one noted of them.
            decided: what has been decided of them.
        """
        where = np.where(decided.reason < 0, decided.split, _QUARANTINED)
        for code, split in enumerate(PRIORITY):
            chosen = np.flatnonzero(where == code)
            if chosen.size:
                self._write_clean(split, batch, notes, chosen)
        bad = np.flatnonzero(where == _QUARANTINED)
        if bad.size:
            self._write_quarantine(file, first_row, batch, _rejections(notes, decided, bad))
        counts = self.counts.files[file]
        counts["rows_in"] += batch.num_rows
        counts["rows_clean"] += batch.num_rows - bad.size
        counts["rows_quarantined"] += bad.size

    def _write_clean(
        self, split: str, batch: pa.RecordBatch, notes: pa.Table, chosen: NDArray[np.int64]
    ) -> None:
        if len(chosen) < batch.num_rows:
            places = pa.array(chosen)
            batch, notes = batch.take(places), notes.take(places)
        columns = {"sample_id": batch.column("sample_id"), "group": _groups(batch, notes)}
        if self._has_parts:
            columns["part"] = decode_column(batch.column("part")).fill_null(b"")
            for part, rows in _count(columns["part"]):
                self._count_part(part, split, rows)
        blank, altered = (notes.column(each).to_numpy() for each in ("blank", "altered"))
        for bit, name in enumerate(self._rules.columns):
            faulty = (blank >> bit & 1).astype(bool)
            if faulty.any():
                self.counts.blanked[name] += int(faulty.sum())
            columns[name] = _without(batch.column(name), faulty)
            if (altered >> bit & 1).any():
                columns[name] = self._clean_column(name, columns[name])
        if "label" in columns:
            self._count_labels(columns)
        masks, uses = np.unique(notes.column("views").to_numpy(), return_counts=True)
        for mask, count in zip(masks.tolist(), uses.tolist(), strict=True):
            self.counts.views[split, mask] += count
        if split not in self._writers:
            self._open(split)
        self._writers[split].write(pa.RecordBatch.from_pydict(columns))
        self.counts.clean[split] += batch.num_rows

    def _count_labels(self, columns: Mapping[str, pa.Array]) -> None:
        """Count labels by part, in the order in which they come."""
        label = decode_column(columns["label"]).dictionary_encode()
        part = columns["part"] if self._has_parts else pa.array([b""] * len(label), pa.binary())
        part = part.dictionary_encode()
        there = np.flatnonzero(label.is_valid().to_numpy(zero_copy_only=False))
        places = [each.indices.fill_null(0).to_numpy()[there] for each in (part, label)]
        pairs = places[0].astype(np.int64) * max(1, len(label.dictionary)) + places[1]
        _, firsts, rows = np.unique(pairs, return_index=True, return_counts=True)
        for at in np.argsort(firsts).tolist():
            names = [
                each.dictionary[int(place[firsts[at]])].as_py().decode()
                for each, place in zip((part, label), places, strict=True)
            ]
            self.counts.labels.add(names[0], names[1], int(rows[at]))

    def _clean_column(self, name: str, column: pa.DictionaryArray) -> pa.DictionaryArray:
        rules = self._rules.of(name)
        counts = self.counts.cleaned[name]
        cells = distinct_cells(column)
        found = clean_cells(cells, rules)
        assert not found.faults, "pass one found these cells good"
        rows = cells.row_value
        uses = np.bincount(rows[rows >= 0], minlength=len(cells.starts))
        for at, text in found.changed.items():
            for change in text.changes:
                counts[change] += int(uses[at])
        # Behind the values as they came stand the clean forms of those that were not plain.
        places = column.indices.fill_null(0).to_numpy()
        moved = np.full(len(cells.starts) + 1, -1)
        moved[list(found.changed)] = len(column.dictionary) + np.arange(len(found.changed))
        places = np.where(moved[rows] < 0, places, moved[rows]).astype(np.int32)
        values = pa.concat_arrays(
            [column.dictionary, pa.array(found.forms().values(), pa.binary())]
        )
        return pa.DictionaryArray.from_arrays(pa.array(places, mask=rows < 0), values)

    def _write_quarantine(
        self, file: str, first_row: int, batch: pa.RecordBatch, found: Iterable["_Rejection"]
    ) -> None:
        rows = []
        for row, split, reason, said, other in found:
            entry: dict[str, str | int | None] = {
                "file": file,
                "row": first_row + row,
                "sample_id": _shown_id(cell_view(batch.column("sample_id"), row)),
                "split": None if split < 0 else PRIORITY[split],
                "reason": reason,
                "detail": said if other < 0 else f"{said} as {_shown(self.place(other))}",
                "sha256": row_digest(batch, row),
            }
            rows.append(entry)
            self.counts.reasons[reason] += 1
            if self._has_parts:
                self._count_part(bytes(cell_view(batch.column("part"), row) or b""), "quarantined")
            examples = self.counts.examples.setdefault(reason, [])
            if len(examples) < EXAMPLES:
                examples.append({key: entry[key] for key in ("file", "row", "sample_id")})
                self.counts.cells += cells_of(file, first_row + row, batch, row)
        self._quarantine.write(pa.RecordBatch.from_pylist(rows, schema=_QUARANTINE_SCHEMA))

    def _count_part(self, part: bytes, where: str, rows: int = 1) -> None:
        try:
            name = part.decode()
        except UnicodeDecodeError:
            return
        if len(part) <= MAX_KEY_BYTES:
            self.counts.parts.setdefault(name, Counter())[where] += rows

    def place(self, number: int) -> Place:
        """Where the row of a number stands."""
        file = bisect_right(self._starts, number) - 1
        return Place(file=self._files[file], row=number - self._starts[file])


class _Rejection(NamedTuple):
    """A row that goes into quarantine."""

    row: int
    """In its batch."""
    split: int
    reason: str
    said: str | None
    other: int
    """Number of the row because of which it goes, or -1."""


def _rejections(notes: pa.Table, decided: Slice, rows: NDArray[np.int64]) -> Iterator[_Rejection]:
    places = pa.array(rows)
    details = notes.column("detail").take(places).to_pylist()
    media = notes.column("medium").take(places).to_pylist()
    columns = (column[rows].tolist() for column in decided)
    facts = zip(rows.tolist(), *columns, details, media, strict=True)
    for row, split, reason, why, other, detail, medium in facts:
        kind = MEDIA[medium[0]] if medium else ""
        said = detail if why < 0 else WHY[why].format(medium=kind)
        yield _Rejection(row, split, REASONS[reason], said, other)


def _groups(rows: pa.RecordBatch, notes: pa.Table) -> pa.BinaryArray:
    """Name the group of every row: its own, or else that of its medium, or else its sample_id."""
    medium = notes.column("medium").combine_chunks()
    groups = pc.coalesce(name_groups(medium), decode_column(rows.column("sample_id")))
    if "group" not in rows.schema.names:
        return groups
    given = rows.column("group")
    cells = distinct_cells(given)
    named = np.append(has_group(cells), False)[cells.row_value]
    return pc.if_else(pa.array(named), decode_column(given), groups)


def _without(column: pa.DictionaryArray, faulty: NDArray[np.bool_]) -> pa.DictionaryArray:
    """A column without the cells of some rows [rows]."""
    if not faulty.any():
        return column
    mask = faulty | column.is_null().to_numpy(zero_copy_only=False)
    indices = pa.array(column.indices.fill_null(0).to_numpy(), mask=mask)
    return pa.DictionaryArray.from_arrays(indices, column.dictionary)


def _count(column: pa.Array) -> Iterator[tuple[bytes, int]]:
    """Distinct values and how often they stand there, in the order in which they come."""
    for found in column.value_counts().to_pylist():
        yield found["values"], found["counts"]


def _shown(place: Place) -> str:
    return f"row {place['row']} of {place['file']}"


def _shown_id(cell: memoryview | None) -> str | None:
    if cell is None:
        return None
    start = bytes(cell[: 4 * _MAX_SHOWN_ID_CHARS])
    return start.decode("utf-8", "replace")[:_MAX_SHOWN_ID_CHARS]


def row_digest(batch: pa.RecordBatch, row: int) -> str:
    """SHA-256 over the row's cells in column order, each with a mark for null and its length."""
    digest = hashlib.sha256()
    for column in batch.columns:
        cell = cell_view(column, row)
        if cell is None:
            digest.update(b"\0")
        else:
            digest.update(b"\1" + len(cell).to_bytes(8, "little"))
            digest.update(cell)
    return digest.hexdigest()
