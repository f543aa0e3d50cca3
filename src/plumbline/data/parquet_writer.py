"""Writing Parquet in row groups whose bounds depend on the rows alone, not on how they arrive."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from plumbline.data.byte_columns import as_bytes, decode_column, is_byte_type, row_bytes
from plumbline.data.parquet import open_parquet
from plumbline.data.parquet_footers import join_files

ROW_GROUP_ROWS = 8192
ROW_GROUP_BYTES = 8 * 2**20
_REPEATED = 1 / 16
"""Share of repetitions among the values of a column from which on it gets dictionaries."""
_MORE = ".more"
"""Ends the name of a file with what comes behind the rows of another."""


class RowGroupWriter:
    """Collect rows and write them as row groups of at most 8,192 rows and 8 MiB, or of one row.

    Equal rows give equal bytes, however they are spread over batches. Pages get checksums. A column
    of text or bytes whose values repeat within the first row group has dictionaries, in which a
    value is stored once for a row group; any other is plain, which is read and written faster.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, begun: Path | None = None) -> None:
        """Create `path`.

        Args:
            path: the file.
            schema: the columns to take from each batch and their types.
            begun: a file of this class with the same schema, whose rows come first: all but its
                last row group is copied as it stands.

        Raises:
            DataError: `begun` is missing or damaged.
        """
        self._schema = schema
        self._path, self._begun = path, begun
        self._target = path.with_name(f"{path.name}{_MORE}") if begun else path
        self._target.touch()
        self._repeating: list[str] | None = None
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self.rows = 0
        """Rows accepted so far."""
        if begun:
            self._take(begun)

    def _take(self, begun: Path) -> None:
        """Go on behind the rows of a file, the last of which are written anew."""
        with open_parquet(begun) as parquet:
            metadata = parquet.metadata
            self._kept, self._end = max(0, metadata.num_row_groups - 1), len(b"PAR1")
            self.rows = sum(metadata.row_group(at).num_rows for at in range(self._kept))
            if self._kept:
                self._repeating = _with_dictionary(metadata.row_group(0))
            if metadata.num_row_groups:
                first = metadata.row_group(self._kept).column(0)
                places = (first.dictionary_page_offset, first.data_page_offset)
                self._end = min(place for place in places if place)
                self.write(parquet.read_row_group(self._kept).combine_chunks().to_batches()[0])

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; byte columns may be plain or dictionaries, of `string` or `binary`.

        Columns that the schema does not name are left out. Bytes become text unread: whether they
        are UTF-8 is for the caller to know.
        """
        batch = batch.select(self._schema.names)
        ends = np.cumsum(row_bytes(batch))
        start = 0
        while start < batch.num_rows:
            before = int(ends[start - 1]) if start else 0
            room = before + ROW_GROUP_BYTES - self._pending_bytes
            stop = min(
                int(np.searchsorted(ends, room, side="right")),
                start + ROW_GROUP_ROWS - self._pending_rows,
            )
            if stop == start and not self._pending:
                stop = start + 1  # one row above the limit is a group of its own
            if stop > start:
                self._append(batch.slice(start, stop - start), int(ends[stop - 1]) - before)
            if stop < batch.num_rows:
                self._flush()
            start = stop

    def _append(self, batch: pa.RecordBatch, size: int) -> None:
        columns = [
            _as_type(decode_column(column), field.type)
            for column, field in zip(batch.columns, self._schema, strict=True)
        ]
        self._pending.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._pending_rows += batch.num_rows
        self._pending_bytes += size
        self.rows += batch.num_rows

    def _flush(self) -> None:
        if self._pending:
            # One chunk per column, as pages must not depend on how the rows arrived either.
            table = pa.Table.from_batches(self._pending).combine_chunks()
            self._open(table).write_table(table, row_group_size=self._pending_rows)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _open(self, table: pa.Table) -> pq.ParquetWriter:
        """The file that is written, which `table`, the first row group, says how to encode."""
        if self._writer is None:
            if self._repeating is None:
                self._repeating = [name for name in table.schema.names if _repeats(table, name)]
            self._writer = pq.ParquetWriter(
                self._target,
                self._schema,
                compression="zstd",
                write_page_checksum=True,
                use_dictionary=self._repeating,
                dictionary_pagesize_limit=ROW_GROUP_BYTES,
                # Of media no reader asks for the least and the greatest.
                write_statistics=[f.name for f in self._schema if not pa.types.is_binary(f.type)],
            )
        return self._writer

    def close(self) -> None:
        """Write what is pending, and the footer."""
        self._flush()
        self._close()

    def _close(self) -> None:
        self._open(self._schema.empty_table()).close()
        if self._begun:
            more = self._path.with_name(f"{self._path.name}{_MORE}")
            join_files(self._begun, self._kept, self._end, more, self._path)
            more.unlink()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; after an error as it is, for the caller to throw away."""
        if error is None:
            self._flush()
        self._close()


def _repeats(table: pa.Table, name: str) -> bool:
    """Whether values of a column are stored once for several rows."""
    column = table.column(name)
    if name == "sample_id" or not is_byte_type(column.type):
        return name != "sample_id"
    there = len(column) - column.null_count
    distinct = len(pc.unique(column)) - bool(column.null_count)
    return bool(there - distinct >= _REPEATED * there)


def _with_dictionary(group: pq.RowGroupMetaData) -> list[str]:
    columns = map(group.column, range(group.num_columns))
    return [column.path_in_schema for column in columns if column.has_dictionary_page]


def _as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    return as_bytes(column).view(kind) if is_byte_type(column.type) else column.cast(kind)
