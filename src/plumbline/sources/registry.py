"""The sources by name: where raw rows come from. A new source is a line in `SourceConfig` here."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from plumbline.data.parquet import declare_splits
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.errors import DataError
from plumbline.sources.parquet import ParquetConfig, read_parquet
from plumbline.sources.scenes import ScenesConfig, read_scenes


class ScenesSource(ScenesConfig):
    """The embedded drawings, chosen by `source: scenes`."""

    source: Literal["scenes"]

    @property
    def given_splits(self) -> list[str]:
        """None: the drawings are split by hash."""
        return []

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows; `path` is not read: the drawings are made, not found."""
        return read_scenes(self)


class ParquetSource(ParquetConfig):
    """Parquet files below the dataset's path, chosen by `source: parquet`."""

    source: Literal["parquet"]

    @property
    def given_splits(self) -> list[str]:
        """The splits that the files come in."""
        return sorted(self.splits)

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the files below `path`."""
        return read_parquet(self, path)


SourceConfig = Annotated[ScenesSource | ParquetSource, Field(discriminator="source")]

ROWS_PER_FILE = 200_000


def write_raw(batches: Iterator[pa.RecordBatch], given_splits: list[str], out: Path) -> int:
    """Write batches as `rows-00000.parquet`, ... into the folder `out` and return the row count.

    Args:
        batches: rows in canonical columns; memory is bounded by a batch and a row group.
        given_splits: splits that the source says it has, noted so that an empty one is an error.
        out: an existing folder.

    Raises:
        DataError: the source gave no row.
    """
    rows = 0
    with ExitStack() as files:
        writer = None
        for batch in batches:
            if writer is None or writer.rows >= ROWS_PER_FILE:
                name = f"rows-{rows // ROWS_PER_FILE:05d}.parquet"
                schema = declare_splits(batch.schema, given_splits)
                files.close()
                writer = files.enter_context(RowGroupWriter(out / name, schema))
            writer.write(batch)
            rows += batch.num_rows
    if not rows:
        raise DataError("the source has zero rows; check the dataset's path and its files")
    return rows
