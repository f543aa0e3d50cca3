"""Writing Parquet in row groups whose bounds depend on the rows alone, not on how they arrive."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.data.byte_columns import as_bytes, decode_column, is_byte_type, row_bytes

ROW_GROUP_ROWS = 8192
ROW_GROUP_BYTES = 8 * 2**20


class RowGroupWriter:
    """Collect rows and write them as row groups of at most 8,192 rows and 8 MiB, or of one row.

    Equal rows give equal bytes, however they are spread over batches. Pages get checksums. A value
    that repeats within a row group is stored once.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Create `path`; `schema` names the columns to take from each batch and their types."""
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=[name for name in schema.names if name != "sample_id"],
            dictionary_pagesize_limit=ROW_GROUP_BYTES,
        )
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self.rows = 0
        """Rows accepted so far."""

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
            self._writer.write_table(table, row_group_size=self._pending_rows)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def close(self) -> None:
        """Write what is pending, and the footer."""
        self._flush()
        self._writer.close()

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
        self._writer.close()


def _as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    return as_bytes(column).view(kind) if is_byte_type(column.type) else column.cast(kind)
