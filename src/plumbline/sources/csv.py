"""Source `csv`: tables of text with a header row."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from plumbline.errors import DataError
from plumbline.sources.files import open_file, unreadable
from plumbline.sources.table import TableSource

MAX_LINE_CHARS = 2**27


class CsvSource(TableSource):
    """Delimited tables below the dataset's path, chosen by `source: csv`.

    Every cell is text: the words NA, nan and null, and empty cells, stay what they are.
    """

    source: Literal["csv"]
    files: str = "*.csv"
    delimiter: str = Field(",", min_length=1, max_length=1)
    quotes: bool = True
    """Whether cells may stand in double quotes; off, a quote is a character like any other."""

    def records(self, path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Yield the records with their numbers, from 1 on; blank lines are passed over."""
        return read_records(path, set(self.columns.values()), self.delimiter, self.quotes)


def read_records(
    path: Path, names: set[str], delimiter: str, quotes: bool = True
) -> Iterator[tuple[int, Mapping[str, str] | None]]:
    """Yield number and named fields of each record; None for one of another length than the header.

    Python's reader rather than Arrow's, which cannot tell where a record of the wrong length
    stood and refuses those that are longer than a block.

    Raises:
        DataError: the file has no header, the header lacks a name or has it twice, or a line is
            too long.
    """
    csv.field_size_limit(MAX_LINE_CHARS)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    with open_file(path):
        pass
    try:
        # Stray bytes become surrogates and bytes again: validation judges them.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(_bounded_lines(file, path), delimiter=delimiter, quoting=quoting)
            header = next(reader, [])
            places = _find_columns(path, header, names)
            number = 0
            for fields in reader:
                if fields:
                    number += 1
                    whole = len(fields) == len(header)
                    yield number, {n: fields[i] for n, i in places.items()} if whole else None
    except csv.Error as error:
        raise DataError(f"{path.as_posix()}: not readable as CSV ({error})") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _bounded_lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE_CHARS):
        number += 1
        if len(line) == MAX_LINE_CHARS:
            raise DataError(
                f"{path.as_posix()}: line {number} is longer than {MAX_LINE_CHARS} characters; "
                "is this a CSV file?"
            )
        yield line


def _find_columns(path: Path, header: list[str], names: set[str]) -> dict[str, int]:
    wrong = [f"{name} is missing" for name in sorted(names - set(header))]
    wrong += [f"{name} is there twice" for name in sorted(names) if header.count(name) > 1]
    if wrong:
        found = ", ".join(header)[:600] or "nothing, as the file is empty"
        raise DataError(
            f"{path.as_posix()}: wrong columns: {', '.join(wrong)}; the header row has {found}"
        )
    return {name: header.index(name) for name in sorted(names)}
