"""Source `csv`: tables of text with a header row."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TextIO

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.errors import DataError
from plumbline.sources.encoding import open_utf8
from plumbline.sources.files import unreadable
from plumbline.sources.table import TableSource
from plumbline.sources.tally import CELLS, Tally

if TYPE_CHECKING:
    import _csv

MAX_LINE_CHARS = 2**27

_DELIMITERS = (",", ";", "\t", "|")
_LOOK_CHARS = 2**20
_ALIKE_SHARE = 0.9
"""Share of the lines in a cell that look like records from which they may well be some."""


class CsvForm(Config):
    """How a delimited table is written."""

    delimiter: str = Field(",", min_length=1, max_length=1)
    """What stands between cells."""
    quotes: bool = True
    """Whether cells may stand in quotes; off, a quote is a character like any other."""
    quote: str = Field('"', min_length=1, max_length=1)
    """What stands around a cell that holds delimiters or line ends."""
    escape: str | None = Field(None, min_length=1, max_length=1)
    """What takes the meaning from the character behind it; a doubled quote is one in any case."""
    header: list[str] | None = None
    """The names of the columns, in order, where the file's first row has none."""

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        marks = [self.delimiter, *([self.quote] if self.quotes else []), *(self.escape or "")]
        if len(set(marks)) < len(marks) or set(marks) & set("\r\n"):
            raise ValueError("delimiter, quote and escape must differ, and end no line")
        if self.header is not None and len(set(self.header)) < max(len(self.header), 1):
            raise ValueError("header must name the columns, each of them once")
        return self


class CsvSource(CsvForm, TableSource):
    """Delimited tables below the dataset's path, chosen by `source: csv`.

    Every cell is text: the words NA, nan and null, and empty cells, stay what they are.
    """

    source: Literal["csv"]
    files: str = "*.csv"

    def records(self, path: Path) -> Iterator[tuple[int, Mapping[str, object] | None]]:
        """Yield the records with their numbers, from 1 on; blank lines are passed over."""
        names = set(self.columns.values())
        return read_records(path, names, self, encoding=self.encoding, tally=self.tally)


def read_records(
    path: Path,
    names: set[str],
    form: CsvForm,
    *,
    encoding: str = "utf-8",
    tally: Tally | None = None,
) -> Iterator[tuple[int, Mapping[str, str] | None]]:
    """Yield number and named fields of each record; None for one that is broken.

    Broken is a record of another length than the header, or with a quoted cell that goes on after
    its closing quote. Where such a cell spans lines, it is no cell: a stray quote has swallowed
    the records between, and the file is refused. A cell that spans lines and ends as it should is
    kept; where its lines look like records, the tally says so.

    Python's reader rather than Arrow's, which cannot tell where a record of the wrong length
    stood and refuses those that are longer than a block.

    Raises:
        DataError: the file has no header, the header lacks a name or has it twice, a line is too
            long, or a stray quote swallows lines.
    """
    csv.field_size_limit(MAX_LINE_CHARS)
    try:
        # Stray bytes become surrogates and bytes again: validation judges them.
        with (
            open_utf8(path, encoding) as binary,
            TextIOWrapper(
                binary, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as file,
        ):
            lines = _bounded_lines(file, path)
            first = next(lines, "")
            reader = _open_reader(chain([first], lines), form)
            records = _parse(reader, path)
            header = form.header or next(records, (0, None))[1] or []
            if wrong := _wrong_columns(header, names, first):
                raise DataError(f"{path.as_posix()}: {wrong}")
            places = {name: header.index(name) for name in sorted(names)}
            number = 0
            for line, fields in records:
                if fields == []:
                    continue
                number += 1
                if fields is None or len(fields) != len(header):
                    yield number, None
                    continue
                if tally and reader.line_num - line > 2:
                    _note_swallowed(
                        fields, form.delimiter, f"{path.as_posix()}, line {line}", tally
                    )
                yield number, {name: fields[at] for name, at in places.items()}
    except OSError as error:
        raise unreadable(path, error) from None


def _open_reader(lines: Iterable[str], form: CsvForm) -> "_csv.Reader":
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quotes else csv.QUOTE_NONE
    return csv.reader(
        lines,
        delimiter=form.delimiter,
        quoting=quoting,
        quotechar=form.quote,
        escapechar=form.escape,
        strict=True,
    )


def _parse(reader: "_csv.Reader", path: Path) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the line that each record begins in, and its fields; None for a broken record."""
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > line:
                raise DataError(
                    f"{path.as_posix()}: a quote in line {line} opens a cell that swallows the "
                    f"lines to {reader.line_num} ({error}); double the quotes within cells, or "
                    "set quotes: false where they are characters like any other"
                ) from None
            fields = None
        yield line, fields


def _note_swallowed(fields: list[str], delimiter: str, where: str, tally: Tally) -> None:
    """Count a cell whose lines have as many delimiters as the record that it is in.

    It may be a table within a cell, or what lies between two stray quotes.
    """
    if len(fields) < 2:
        return
    for field in fields:
        inner = field[:_LOOK_CHARS].splitlines()[1:-1]
        alike = sum(line.count(delimiter) == len(fields) - 1 for line in inner)
        if len(inner) >= 2 and alike >= _ALIKE_SHARE * len(inner):
            what = "in quotes hold lines that look like records"
            tally.add(CELLS, what, where, "are the quotes stray? mend them, or set quotes: false")


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


def _wrong_columns(header: list[str], names: set[str], first_line: str) -> str:
    """Say what the header row lacks, and by which delimiter it would not; empty for nothing."""
    wrong = [f"{name} is missing" for name in sorted(names - set(header))]
    wrong += [f"{name} is there twice" for name in sorted(names) if header.count(name) > 1]
    if not wrong:
        return ""
    found = (", ".join(header) or first_line.strip())[:600] or "nothing, as the file is empty"
    told = f"wrong columns: {', '.join(wrong)}; the header row has {found}"
    for other in _DELIMITERS:
        if names <= {cell.strip(' "') for cell in first_line.strip("\r\n").split(other)}:
            return f"{told}; set delimiter: {other!r}"
    return told
