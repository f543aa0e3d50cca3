"""Writing a table as CSV, so that a spreadsheet shows what a program reads."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from plumbline.text import csv_cell


class CsvWriter:
    """A CSV file with a header, written piece by piece; texts go through `csv_cell`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Create `path`."""
        self._schema = pa.schema([field.with_name(csv_cell(field.name)) for field in schema])
        self._writer = pyarrow.csv.CSVWriter(path, self._schema)

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        columns = [_escaped(column) for column in table.columns]
        self._writer.write_table(pa.table(columns, self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table with its header; texts go through `plumbline.text.csv_cell`."""
    with closing(CsvWriter(path, table.schema)) as writer:
        writer.write(table)


def _escaped(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if not pa.types.is_string(column.type):
        return column
    texts = [None if text is None else csv_cell(text) for text in column.to_pylist()]
    return pa.array(texts, pa.string())
