"""The first rejected rows of each reason with what they hold, for whoever looks at the report."""

from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from plumbline.data.byte_columns import cell_view
from plumbline.data.columns import KEYS, SHOWN

FILE = "examples.parquet"
TEXT_BYTES = 400
"""Of a text that are kept."""
MEDIUM_BYTES = 2**16
"""A larger image or sound is named and not kept."""


class Cell(TypedDict):
    """One cell of a rejected row."""

    file: str
    row: int
    column: str
    size: int
    """Bytes that the whole cell has."""
    text: str | None
    """The beginning of a text, bytes that are no UTF-8 replaced."""
    medium: bytes | None


SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("size", pa.int64()),
        ("text", pa.string()),
        ("medium", pa.binary()),
    ]
)


def cells_of(file: str, row: int, batch: pa.RecordBatch, at: int) -> list[Cell]:
    """The content of a row, without its empty cells.

    Args:
        file: that the row came in.
        row: its number there.
        batch: that holds it, with dictionaries of bytes as columns.
        at: its number in the batch.
    """
    cells: list[Cell] = []
    for name in batch.schema.names:
        view = None if name in KEYS else cell_view(batch.column(name), at)
        if view is None:
            continue
        medium = name in SHOWN
        text = None if medium else bytes(view[:TEXT_BYTES]).decode("utf-8", "replace")
        kept = bytes(view) if medium and len(view) <= MEDIUM_BYTES else None
        cells.append(Cell(file=file, row=row, column=name, size=len(view), text=text, medium=kept))
    return cells


def write_cells(cells: list[Cell], folder: Path) -> None:
    """Write them into the quarantine."""
    pq.write_table(pa.Table.from_pylist(cells, schema=SCHEMA), folder / FILE, compression="zstd")


def read_cells(folder: Path) -> list[Cell]:
    """Read what `write_cells` wrote."""
    cells: list[Cell] = pq.read_table(folder / FILE).to_pylist()
    return cells
