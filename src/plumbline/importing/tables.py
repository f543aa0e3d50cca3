"""A sample of somebody's tables, as fields: what CSV, JSON Lines, Parquet and tar shards hold."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise
from pathlib import Path, PurePosixPath

import pyarrow as pa

from plumbline.data.byte_columns import is_byte_type
from plumbline.data.parquet import count_rows, iter_batches, open_parquet
from plumbline.errors import DataError
from plumbline.importing.delimited import (
    DELIMITERS,
    guess_delimiter,
    guess_encoding,
    guess_header,
    read_start,
)
from plumbline.importing.fields import Field, medium_of
from plumbline.sources.arrow_columns import HELD, read_class_names
from plumbline.sources.csv import CsvForm, read_records
from plumbline.sources.encoding import open_utf8
from plumbline.sources.files import LineReader
from plumbline.sources.jsonl import MAX_LINE_BYTES, parse_object

SAMPLED = 1000
"""Rows of a table that its columns are told by."""
SAMPLED_BYTES = 2**25


Settings = dict[str, object]
"""A section of settings."""


@dataclass
class Table:
    """What several files of one form hold."""

    source: str
    root: Path
    settings: Settings
    """Of the source, but for its columns."""
    fields: list[Field]
    rows_of: Mapping[str, int]
    """File -> its rows, by its footer, or by its bytes and those of the sample."""
    exact: bool
    """Whether these are the numbers themselves."""
    notes: list[str] = field(default_factory=list)
    """What was guessed of its form, and why."""

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(self.rows_of.values())

    def field(self, name: str) -> Field | None:
        """A field by its name."""
        return next((one for one in self.fields if one.name == name), None)


@dataclass(frozen=True)
class Form:
    """What the command line says of how a table is written; None where it says nothing."""

    encoding: str | None = None
    delimiter: str | None = None
    quotes: bool | None = None
    header: tuple[str, ...] | None = None


def _fields_of(records: Sequence[Mapping[str, object]]) -> list[Field]:
    names = dict.fromkeys(name for record in records for name in record)
    return [Field(name, [record.get(name) for record in records]) for name in names]


def _estimate(
    root: Path, names: Sequence[str], rows: int, size: int
) -> tuple[dict[str, int], bool]:
    """Rows of each file by those of a sample of `size` bytes."""
    sizes = {name: (root / name).stat().st_size for name in names}
    total = sum(sizes.values())
    exact = size >= total or not rows
    whole = rows if exact else int(rows * total / size)
    # Of what comes before and with each file, so that they add up to the whole.
    ends = [whole * before // max(1, total) for before in accumulate(sizes.values(), initial=0)]
    return {
        name: end - start for name, (start, end) in zip(names, pairwise(ends), strict=True)
    }, exact


def read_csv(root: Path, names: Sequence[str], form: Form) -> Table:
    """Sample delimited tables of one form.

    Raises:
        DataError: one of them cannot be read.
    """
    path = root / names[0]
    notes, settings = list[str](), dict[str, object]()
    encoding = form.encoding
    if encoding is None:
        guess = guess_encoding(path)
        encoding = guess.value
        notes.append(f"encoding {encoding}: {guess.reason}")
    lines = read_start(path, encoding)
    delimiter = form.delimiter
    if delimiter is None:
        guess = guess_delimiter(lines)
        delimiter = guess.value
        notes.append(f"delimiter {DELIMITERS[delimiter]}: {guess.reason}")
    header = list(form.header) if form.header else guess_header(lines, delimiter)
    if header:
        settings["header"] = header
        if not form.header:
            notes.append("header: the first row has no names; these are ours")
    settings |= {"delimiter": delimiter} if delimiter != "," else {}
    settings |= {"encoding": encoding} if encoding != "utf-8" else {}
    settings |= {"quotes": form.quotes} if form.quotes is not None else {}
    try:
        records = _csv_records(path, lines, settings)
    except DataError as error:
        if form.quotes is not None or "quote" not in str(error):
            raise
        notes.append(f"quotes false: {str(error).partition(': ')[2].partition(';')[0]}")
        settings["quotes"] = False
        records = _csv_records(path, lines, settings)
    size = sum(len(cell.encode("utf-8", "replace")) + 1 for r in records for cell in r.values())
    rows, exact = _estimate(root, names, len(records), size)
    if len(names) == 1 and len(records) < SAMPLED:
        rows, exact = {names[0]: len(records)}, True
    return Table("csv", root, settings, _fields_of(records), rows, exact, notes)


def _csv_records(
    path: Path, lines: Sequence[str], settings: Mapping[str, object]
) -> list[dict[str, str]]:
    """The first records, after the file was seen to be whole as far as its quotes go."""
    form = CsvForm.model_validate(
        {name: settings[name] for name in ("delimiter", "header", "quotes") if name in settings}
    )
    names = set(form.header or _names(path, lines, form.delimiter))
    found = list[dict[str, str]]()
    encoding = str(settings.get("encoding", "utf-8"))
    for number, record in read_records(path, names, form, encoding=encoding):
        if record is not None and len(found) < SAMPLED:
            found.append(dict(record))
        if number >= 50 * SAMPLED:  # a stray quote of a very long table is told by prepare
            break
    order = form.header or _names(path, lines, form.delimiter)
    return [{name: record[name] for name in order} for record in found]


def _names(path: Path, lines: Sequence[str], delimiter: str) -> list[str]:
    import csv

    try:
        first = next(csv.reader(lines, delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(f"{path.as_posix()}: the header row cannot be read ({error})") from None
    if not any(first):
        raise DataError(f"{path.as_posix()}: is empty, or its first line is; a header is needed")
    if twice := [name for name in first if first.count(name) > 1]:
        raise DataError(
            f"{path.as_posix()}: the header row has {twice[0]!r} twice; name the columns with "
            "--header"
        )
    return first


def read_jsonl(root: Path, names: Sequence[str], form: Form) -> Table:
    """Sample files of JSON objects, one a line.

    Raises:
        DataError: no line of the first file is one.
    """
    path, records, size, broken = root / names[0], list[dict[str, object]](), 0, 0
    encoding = form.encoding or guess_encoding(path).value
    with open_utf8(path, encoding, lines=True) as file:
        for _, line in LineReader(file, MAX_LINE_BYTES).lines():
            size += len(line)
            if not line.strip():
                continue
            record = parse_object(line.removeprefix(b"\xef\xbb\xbf"))
            broken += record is None
            if record is not None:
                records.append(record)
            if len(records) == SAMPLED or size > SAMPLED_BYTES or broken > 100 > len(records):
                break
    if not records:
        raise DataError(
            f"{path.as_posix()}: no line of it is a JSON object; JSON Lines have one a line (of a "
            "list, `jq -c '.[]'` makes them)"
        )
    rows, exact = _estimate(root, names, len(records), size)
    settings: Settings = {"encoding": encoding} if encoding != "utf-8" else {}
    return Table("jsonl", root, settings, _fields_of(_opened(records)), rows, exact)


def _opened(records: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Records whose objects are fields of their own by dotted names, as the source has them."""
    return [
        {
            (f"{name}.{inner}" if inner else name): one
            for name, value in record.items()
            for inner, one in _items(value)
        }
        for record in records
    ]


def _items(value: object) -> Iterable[tuple[str, object]]:
    """The fields of an object that is none of a medium; a value without a name for all else."""
    if isinstance(value, dict) and value and not set(HELD) & set(value):
        return value.items()
    return [("", value)]


def read_parquet(root: Path, names: Sequence[str], form: Form) -> Table:
    """Sample Parquet files.

    Raises:
        DataError: one of them cannot be read.
    """
    paths = [root / name for name in names]
    with open_parquet(paths[0]) as file:
        schema = file.schema_arrow
    columns = [name for name in schema.names if not name.startswith("__index_level_")]
    classes = read_class_names(schema)
    # Of one column after the other: a wide table is never in memory as a whole.
    fields = [
        Field(name, _arrow_values(paths[0], schema.field(name)), classes.get(name, []))
        for name in columns
    ]
    rows = {name: count_rows(path) for name, path in zip(names, paths, strict=True)}
    notes = [
        f"names of {name}: {', '.join(classes[name])[:60]}" for name in columns if name in classes
    ]
    return Table("parquet", root, {}, fields, rows, True, notes)


def _arrow_values(path: Path, column: pa.Field) -> list[object]:
    found, size = list[object](), 0
    plain = _text if is_byte_type(column.type) and not _is_binary(column.type) else _same
    for batch in iter_batches(path, [column.name], 64):
        found += [plain(value) for value in batch.column(0).to_pylist()]
        size += batch.nbytes
        if len(found) >= SAMPLED or size > SAMPLED_BYTES // 4:
            break
    return found[:SAMPLED]


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "binary" in str(kind)


def _same(value: object) -> object:
    return value


def _text(value: object) -> object:
    """Text comes as bytes, which nobody has looked at."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def read_tar(root: Path, names: Sequence[str], form: Form) -> Table:
    """Sample shards of tar: an ending, or a field of an object, is a column.

    Raises:
        DataError: the first of them cannot be read.
    """
    from plumbline.sources.webdataset import iter_samples

    path = root / names[0]
    records, size = list[dict[str, object]](), 0
    for _, members in islice(iter_samples(path), SAMPLED):
        size += sum(map(len, members.values()))
        records.append(dict(_of_members(members)))
        if size > SAMPLED_BYTES:
            break
    rows, exact = _estimate(root, names, len(records), size)
    return Table("webdataset", root, {}, _fields_of(records), rows, exact and len(names) == 1)


def _of_members(members: Mapping[str, bytes]) -> Iterator[tuple[str, object]]:
    for ending, data in members.items():
        record = parse_object(data) if PurePosixPath(f"x.{ending}").suffix == ".json" else None
        if record is None:
            yield ending, data if medium_of(data[:4096]) else _text(data)
        else:
            yield from ((f"{ending}.{name}", value) for name, value in record.items())


READERS: Mapping[str, Callable[[Path, Sequence[str], Form], Table]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".psv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
    ".tar": read_tar,
}
"""Ending -> what samples its files."""
