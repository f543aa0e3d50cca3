"""Pass two of validation: every raw row goes to a clean table or to the quarantine table."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import cell_view, decode_column, distinct_cells
from plumbline.data.columns import CANONICAL
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.errors import DataError
from plumbline.validation.examples import Cell, cells_of, write_cells
from plumbline.validation.judging import MAX_KEY_BYTES, medium_group
from plumbline.validation.leaks import Place, SharedTexts
from plumbline.validation.near_labels import NearLabels
from plumbline.validation.rules import Rules
from plumbline.validation.splits import PRIORITY
from plumbline.validation.text_check import CleanText
from plumbline.validation.verdicts import FinalVerdict

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


class Counts:
    """What pass two counts for the report."""

    def __init__(self, files: Iterable[str]) -> None:
        """Begin at zero for all of the files."""
        self.clean: Counter[str] = Counter()
        """Rows by split."""
        self.reasons: Counter[str] = Counter()
        """Rows in quarantine by reason."""
        zero = {"rows_in": 0, "rows_clean": 0, "rows_quarantined": 0}
        self.files: dict[str, Counter[str]] = {file: Counter(zero) for file in files}
        """Rows by file and by where they went."""
        self.blanked: Counter[str] = Counter()
        """Faulty cells by column that became null in rows that some other view can use."""
        self.cleaned: dict[str, Counter[str]] = {}
        """Cells by column that cleaning changed, by the changes of `CleanText`."""
        self.examples: dict[str, list[dict[str, str | int]]] = {}
        """The first rows in quarantine by reason."""
        self.cells: list[Cell] = []
        """What these hold."""
        self.labels = NearLabels()
        """Labels of clean rows, to find those that differ in form only."""
        self.parts: dict[str, Counter[str]] = {}
        """Rows by part and by split or `quarantined`, where the data has parts.

        A row in quarantine counts for the part that it names, if that is a name.
        """


class RowFiler:
    """Writes `<split>.parquet` and the quarantine table from raw rows and their verdicts."""

    def __init__(
        self,
        clean: Path,
        quarantine: Path,
        rules: Rules,
        verdicts: Iterator[FinalVerdict],
        file_starts: dict[str, int],
        texts: SharedTexts,
        *,
        has_parts: bool,
    ) -> None:
        """Write below the two folders.

        Args:
            clean: empty folder for the clean tables.
            quarantine: empty folder for the quarantine table.
            rules: those of pass one.
            verdicts: of all rows, in order.
            file_starts: file name -> number of its first row, in order.
            texts: is shown all clean rows.
            has_parts: whether clean tables have the column `part`.
        """
        self._clean = clean
        self._rules = rules
        self._verdicts = verdicts
        self._files = list(file_starts)
        self._starts = list(file_starts.values())
        self._has_parts, self._texts = has_parts, texts
        keys = ("sample_id", "group", *(("part",) if has_parts else ()))
        self._schema = pa.schema([(name, CANONICAL[name]) for name in (*keys, *rules.columns)])
        self._writers: dict[str, RowGroupWriter] = {}
        self._quarantine = RowGroupWriter(quarantine / QUARANTINE, _QUARANTINE_SCHEMA)
        self._folder = quarantine
        self.counts = Counts(file_starts)

    def close(self) -> None:
        """Finish all tables."""
        for writer in (*self._writers.values(), self._quarantine):
            writer.close()
        write_cells(self.counts.cells, self._folder)

    def file_rows(self, file: str, first_row: int, batch: pa.RecordBatch) -> None:
        """Write the next rows, which begin at row `first_row` of `file`.

        Raises:
            DataError: there are more rows than there were in pass one.
        """
        verdicts = list(islice(self._verdicts, batch.num_rows))
        if len(verdicts) != batch.num_rows:
            raise DataError(f"{file}: changed while it was validated; run again")
        codes = np.array([_code(verdict) for verdict in verdicts], np.int64)
        for code, split in enumerate(PRIORITY):
            chosen = np.flatnonzero(codes == code)
            if chosen.size:
                self._write_clean(split, batch, verdicts, chosen)
        bad = np.flatnonzero(codes < 0)
        if bad.size:
            self._write_quarantine(file, first_row, batch, verdicts, bad)
        counts = self.counts.files[file]
        counts["rows_in"] += len(verdicts)
        counts["rows_clean"] += len(verdicts) - bad.size
        counts["rows_quarantined"] += bad.size

    def _write_clean(
        self,
        split: str,
        batch: pa.RecordBatch,
        verdicts: Sequence[FinalVerdict],
        chosen: NDArray[np.int64],
    ) -> None:
        rows = batch.take(pa.array(chosen))
        kept = [verdicts[row] for row in chosen.tolist()]
        columns = {"sample_id": rows.column("sample_id"), "group": _groups(rows, kept)}
        if self._has_parts:
            columns["part"] = decode_column(rows.column("part")).fill_null(b"")
            for part in columns["part"].to_pylist():
                self._count_part(part, split)
        blank = np.array([verdict.blank for verdict in kept], np.int64)
        for bit, name in enumerate(self._rules.columns):
            faulty = (blank >> bit & 1).astype(bool)
            if faulty.any():
                self.counts.blanked[name] += int(faulty.sum())
            columns[name] = self._clean_column(name, rows.column(name), faulty)
        self._texts.add(split, columns)
        if "label" in columns:
            self._count_labels(columns)
        if split not in self._writers:
            path = self._clean / f"{split}.parquet"
            self._writers[split] = RowGroupWriter(path, self._schema)
        self._writers[split].write(pa.RecordBatch.from_pydict(columns))
        self.counts.clean[split] += len(kept)

    def _count_labels(self, columns: Mapping[str, pa.Array]) -> None:
        labels = decode_column(columns["label"]).to_pylist()
        parts = columns["part"].to_pylist() if self._has_parts else [b""] * len(labels)
        for (part, label), rows in Counter(zip(parts, labels, strict=True)).items():
            if label is not None:
                self.counts.labels.add(part.decode(), label.decode(), rows)

    def _clean_column(
        self, name: str, column: pa.DictionaryArray, faulty: NDArray[np.bool_]
    ) -> pa.DictionaryArray:
        if faulty.any():
            indices = pa.array(
                column.indices.fill_null(0).to_numpy(),
                mask=faulty | column.is_null().to_numpy(False),
            )
            column = pa.DictionaryArray.from_arrays(indices, column.dictionary)
        rules = self._rules.of(name)
        if rules.clean is None:
            return column
        cells = distinct_cells(column, rules.max_bytes)
        uses = np.bincount(cells.row_value[cells.row_value >= 0], minlength=len(cells.values))
        texts = []
        counts = self.counts.cleaned.setdefault(name, Counter())
        for value, used in zip(cells.values, uses.tolist(), strict=True):
            found = rules.clean(value or b"")
            assert isinstance(found, CleanText), "pass one found this cell good"
            texts.append(found.text.encode())
            for change in found.changes:
                counts[change] += used
        nulls = cells.row_value < 0
        indices = pa.array(np.where(nulls, 0, cells.row_value).astype(np.int32), mask=nulls)
        return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.binary()))

    def _write_quarantine(
        self,
        file: str,
        first_row: int,
        batch: pa.RecordBatch,
        verdicts: Sequence[FinalVerdict],
        bad: NDArray[np.int64],
    ) -> None:
        rows = []
        for row in bad.tolist():
            verdict = verdicts[row]
            assert verdict.reason is not None
            entry = {
                "file": file,
                "row": first_row + row,
                "sample_id": _shown_id(cell_view(batch.column("sample_id"), row)),
                "split": None if verdict.split is None else PRIORITY[verdict.split],
                "reason": verdict.reason,
                "detail": self._detail(verdict),
                "sha256": row_digest(batch, row),
            }
            rows.append(entry)
            self.counts.reasons[verdict.reason] += 1
            if self._has_parts:
                self._count_part(cell_view(batch.column("part"), row), "quarantined")
            examples = self.counts.examples.setdefault(verdict.reason, [])
            if len(examples) < EXAMPLES:
                examples.append({key: entry[key] for key in ("file", "row", "sample_id")})
                self.counts.cells += cells_of(file, first_row + row, batch, row)
        self._quarantine.write(pa.RecordBatch.from_pylist(rows, schema=_QUARANTINE_SCHEMA))

    def _count_part(self, part: bytes | memoryview | None, where: str) -> None:
        try:
            name = bytes(part or b"").decode()
        except UnicodeDecodeError:
            return
        if len(part or b"") <= MAX_KEY_BYTES:
            self.counts.parts.setdefault(name, Counter())[where] += 1

    def _detail(self, verdict: FinalVerdict) -> str | None:
        if verdict.other is None:
            return verdict.detail
        place = self.place(verdict.other)
        return f"{verdict.detail} as row {place['row']} of {place['file']}"

    def place(self, number: int) -> Place:
        """Where the row of a number stands."""
        file = bisect_right(self._starts, number) - 1
        return Place(file=self._files[file], row=number - self._starts[file])


def _code(verdict: FinalVerdict) -> int:
    """Where a row goes: the code of its split, or -1 for quarantine."""
    if verdict.reason is not None:
        return -1
    assert verdict.split is not None, "every good row has been given a split"
    return verdict.split


def _groups(rows: pa.RecordBatch, verdicts: Sequence[FinalVerdict]) -> pa.BinaryArray:
    """Name the group of every row: its own, or else that of its medium, or else its sample_id."""
    own = decode_column(rows.column("sample_id")).to_pylist()
    given: list[bytes | None] = [None] * len(own)
    if "group" in rows.schema.names:
        given = decode_column(rows.column("group")).to_pylist()
    groups = []
    for sample_id, group, verdict in zip(own, given, verdicts, strict=True):
        if group and group.strip():
            groups.append(group)
        else:
            groups.append(medium_group(verdict.medium).encode() if verdict.medium else sample_id)
    return pa.array(groups, pa.binary())


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
