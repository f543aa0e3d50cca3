"""All sources by name, and writing what they yield. A new source is a line in the table here.

A plugin registers its own in `SOURCES` before the stage that reads settings is imported.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from plumbline.data.byte_columns import is_byte_type
from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.parquet import declare_splits
from plumbline.data.parquet_writer import RowGroupWriter
from plumbline.errors import DataError
from plumbline.sources.base import SOURCES, Source
from plumbline.sources.csv import CsvSource
from plumbline.sources.folders import AudioFolderSource, ImageFolderSource
from plumbline.sources.hub import HubSource
from plumbline.sources.jsonl import JsonlSource
from plumbline.sources.parquet import ParquetSource
from plumbline.sources.parts import PartsSource
from plumbline.sources.scenes import ScenesSource
from plumbline.sources.signals import SignalsSource
from plumbline.sources.text import TextSource
from plumbline.sources.webdataset import WebDatasetSource
from plumbline.tracking.progress import tracked

__all__ = ["SOURCES", "Source", "write_raw"]

SOURCES.register("scenes", ScenesSource)
SOURCES.register("signals", SignalsSource)
SOURCES.register("parquet", ParquetSource)
SOURCES.register("hub", HubSource)
SOURCES.register("jsonl", JsonlSource)
SOURCES.register("csv", CsvSource)
SOURCES.register("text", TextSource)
SOURCES.register("imagefolder", ImageFolderSource)
SOURCES.register("audiofolder", AudioFolderSource)
SOURCES.register("webdataset", WebDatasetSource)
SOURCES.register("parts", PartsSource)

ROWS_PER_FILE = 200_000

_LONGEST = MAX_CELL_BYTES + 1


def write_raw(
    batches: Iterator[pa.RecordBatch], given_splits: list[str], out: Path, whose: str = "the source"
) -> int:
    """Write batches as `rows-00000.parquet`, ... into the folder `out` and return the row count.

    Args:
        batches: rows in canonical columns; memory is bounded by a batch and a row group.
        given_splits: splits that the source says it has, noted so that an empty one is an error.
        out: an existing folder.
        whose: what gives the rows, for the message where there is none.

    Raises:
        DataError: the source gave no row.
    """
    rows = 0
    with ExitStack() as files:
        writer = None
        for batch in _cut_files(tracked(batches, "reading", None, "rows", len)):
            if writer is None or writer.rows >= ROWS_PER_FILE:
                name = f"rows-{rows // ROWS_PER_FILE:05d}.parquet"
                schema = declare_splits(batch.schema, given_splits)
                files.close()
                writer = files.enter_context(RowGroupWriter(out / name, schema))
            writer.write(_cut_cells(batch))
            rows += batch.num_rows
    if not rows:
        raise DataError(f"{whose} has zero rows; check the dataset's path, its files and settings")
    return rows


def _cut_files(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches where a file is full, so that files do not depend on how rows arrive."""
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, ROWS_PER_FILE - rows % ROWS_PER_FILE)
            yield piece
            rows += piece.num_rows
            start += piece.num_rows


def _cut_cells(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Keep so much of a cell that is too large that validation sees that it is."""
    for place, (field, column) in enumerate(zip(batch.schema, batch.columns, strict=True)):
        if column.nbytes > _LONGEST and is_byte_type(field.type):
            cells = pc.binary_slice(column.view(pa.binary()), 0, _LONGEST)
            batch = batch.set_column(place, field, cells.view(field.type))
    return batch
