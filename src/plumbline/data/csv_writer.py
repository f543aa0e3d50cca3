"""Writing a table as CSV, so that a spreadsheet shows what a program reads."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from plumbline.text import csv_cell


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table with its header; texts go through `plumbline.text.csv_cell`."""
    columns = {name: _escaped(table.column(name)) for name in table.column_names}
    pyarrow.csv.write_csv(
        pa.table(list(columns.values()), [csv_cell(name) for name in columns]), path
    )


def _escaped(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_string(column.type):
        return column
    texts = [None if text is None else csv_cell(text) for text in column.to_pylist()]
    return pa.array(texts, pa.string())
