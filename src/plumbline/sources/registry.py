"""The sources by name: where raw rows come from. A new source is a line in `SourceConfig` here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from plumbline.errors import DataError
from plumbline.sources.parquet import ParquetConfig, read_parquet
from plumbline.sources.scenes import ScenesConfig, read_scenes


class ScenesSource(ScenesConfig):
    """The embedded drawings, chosen by `source: scenes`."""

    source: Literal["scenes"]

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows; `path` is not read: the drawings are made, not found."""
        return read_scenes(self)


class ParquetSource(ParquetConfig):
    """Parquet files below the dataset's path, chosen by `source: parquet`."""

    source: Literal["parquet"]

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the files below `path`."""
        return read_parquet(self, path)


SourceConfig = Annotated[ScenesSource | ParquetSource, Field(discriminator="source")]

ROWS_PER_FILE = 200_000
ROW_GROUP_BYTES = 32 << 20


def write_raw(batches: Iterator[pa.RecordBatch], out: Path) -> int:
    """Write batches as `rows-00000.parquet`, ... into the folder `out` and return the row count.

    Memory is bounded by one batch: each becomes a row group of its own.

    Raises:
        DataError: the source gave no row.
    """
    rows, part, writer = 0, 0, None
    try:
        for batch in batches:
            if writer is None:
                writer = pq.ParquetWriter(
                    out / f"rows-{part:05d}.parquet",
                    batch.schema,
                    compression="zstd",
                    # An image stands in each row that asks about it: one dictionary entry.
                    dictionary_pagesize_limit=ROW_GROUP_BYTES,
                    write_page_checksum=True,
                )
                start = rows
            writer.write_batch(batch)
            rows += batch.num_rows
            if rows - start >= ROWS_PER_FILE:
                writer.close()
                writer, part = None, part + 1
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise DataError("the source has zero rows; check the dataset's path and its files")
    return rows
