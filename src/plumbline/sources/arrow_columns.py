"""Columns of Arrow tables in the forms that hubs give them, brought to the canonical columns.

A medium may be bytes, an object of bytes and path, or a text that names it; a class a number whose
name the schema's metadata has; a text a list of texts, of which each makes a row.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from plumbline.data.byte_columns import as_bytes, is_byte_type, row_bytes
from plumbline.data.columns import CONTENT, SHOWN
from plumbline.data.nested_fields import find_type
from plumbline.data.parquet import BATCH_BYTES
from plumbline.sources.media_cells import MAX_SHOWN_CHARS, NOT_THERE, is_url, load_medium
from plumbline.sources.numbers import can_convert, is_list, to_bytes

ArrowMedia = Literal["bytes", "path", "base64"]
"""What a text in a column of media is: a file below the dataset's path, or its bytes in base64."""


class Note(Protocol):
    """Counts a row that holds something that cannot be used."""

    def __call__(self, what: str, row: int, said: str = "") -> None:
        """Count `row` of the batch: what is the matter, and what the cell says."""


HELD = ("bytes", "path")
"""Fields of an object that holds a medium, as hubs have it."""


@dataclass(frozen=True)
class Place:
    """Where the rows of one table lie, and how it writes what it holds."""

    folder: Path
    """Media are named from there."""
    media: ArrowMedia
    ending: str
    """What is put behind their names."""
    class_names: Mapping[str, list[str]]
    """Column -> the names of its numbers."""


@dataclass(frozen=True)
class ColumnReader:
    """How one canonical column is made of a table's fields."""

    names: tuple[str, ...]
    """Fields to read; dots reach into objects."""
    make: Callable[[pa.RecordBatch, Note], pa.Array]
    """From a batch with these fields to `binary` cells, or to lists of them."""


def accepts(ours: str, kind: pa.DataType, media: ArrowMedia) -> bool:
    """Whether `make_reader` brings a type into a canonical column, beside the canonical type."""
    if ours in SHOWN and pa.types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in HELD)
    if ours in SHOWN and media != "bytes" and is_byte_type(kind):
        return True
    if holds_texts(ours, kind):
        return True
    return can_convert(ours, kind)


def holds_texts(ours: str, kind: pa.DataType | str | None) -> bool:
    """Whether a cell of a text column is a list of texts."""
    return (
        isinstance(kind, pa.DataType)
        and CONTENT.get(ours) == "text"
        and is_list(kind)
        and is_byte_type(kind.value_type)
    )


def read_class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> the names of its classes, by what a hub's library noted in the schema."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # no such note, or one that is none


def make_reader(ours: str, theirs: str, schema: pa.Schema, place: Place) -> ColumnReader:
    """The reader of a column whose type `accepts`, or is canonical."""
    kind = find_type(schema, theirs)
    if ours in SHOWN and isinstance(kind, pa.DataType) and pa.types.is_struct(kind):
        there = [name for name in HELD if kind.get_field_index(name) >= 0]
        return _media_reader({name: f"{theirs}.{name}" for name in there}, place)
    if ours in SHOWN and place.media != "bytes":
        return _media_reader({"path": theirs}, place)
    if holds_texts(ours, kind):
        return ColumnReader((theirs,), lambda batch, _: _as_lists(batch.column(theirs)))
    names = place.class_names.get(theirs)
    if CONTENT.get(ours) == "label" and names and pa.types.is_integer(kind):
        return ColumnReader(
            (theirs,), lambda batch, note: _named(batch.column(theirs), names, note)
        )
    return ColumnReader((theirs,), lambda batch, _: to_bytes(ours, batch.column(theirs)))


def _media_reader(fields: Mapping[str, str], place: Place) -> ColumnReader:
    """Read bytes where there are any, else what the path names."""
    media: Literal["path", "base64"] = "base64" if place.media == "base64" else "path"

    def make(batch: pa.RecordBatch, note: Note) -> pa.Array:
        held, named = (
            batch.column(fields[name]) if name in fields else None for name in ("bytes", "path")
        )
        cells: list[bytes | None] = []
        for row in range(batch.num_rows):
            cell = held[row].as_py() if held is not None else None
            name = named[row].as_py() if named is not None and not cell else None
            if name:
                text = name.decode("utf-8", "surrogateescape")
                text = text if is_url(text) or media == "base64" else text + place.ending
                cell = load_medium(text, place.folder, media)
                if cell is None:
                    note(NOT_THERE, row, text[:MAX_SHOWN_CHARS])
            cells.append(cell)
        return pa.array(cells, pa.binary())

    return ColumnReader(tuple(fields.values()), make)


def _named(numbers: pa.Array, names: list[str], note: Note) -> pa.Array:
    cells: list[bytes | None] = []
    for row, number in enumerate(numbers.to_pylist()):
        known = number is not None and 0 <= number < len(names)
        if number is not None and not known:
            note("have a class number without a name", row)
        cells.append(names[number].encode() if known else None)
    return pa.array(cells, pa.binary())


def _as_lists(column: pa.Array) -> pa.ListArray:
    """Lists of texts of any form as `list<binary>`."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    texts = column.flatten()
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary.take(texts.indices)
    return pa.ListArray.from_arrays(pa.array(ends), as_bytes(texts))


def part_lists(columns: Mapping[str, pa.Array], note: Note) -> Iterator[dict[str, pa.Array]]:
    """Make a row of each text where cells are lists of texts, in pieces of about 8 MiB.

    Rows of one cell share a `group`, and their ids end in the number of the text, from 1 on. Where
    a row's lists differ in length, what is missing is null; an empty list leaves one row.
    """
    lists = {name: column for name, column in columns.items() if pa.types.is_list(column.type)}
    if not lists:
        yield dict(columns)
        return
    lengths = np.stack(
        [np.diff(column.offsets.to_numpy()) for column in lists.values()]
    )  # [lists, rows]
    counts = np.maximum(lengths.max(axis=0), 1)
    for row in np.flatnonzero(lengths.max(axis=0) != lengths.min(axis=0)).tolist():
        note("have lists of unequal length", row)
    parents = np.repeat(np.arange(len(counts)), counts)
    numbers = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    plain = {name: column for name, column in columns.items() if name not in lists}
    plain.setdefault("group", plain["sample_id"])
    small = {"sample_id": _numbered(plain["sample_id"], parents, numbers)}
    for (name, column), length in zip(lists.items(), lengths, strict=True):
        there = numbers < length[parents]
        places = column.offsets.to_numpy()[parents] + numbers
        small[name] = column.values.take(pa.array(np.where(there, places, 0), mask=~there))
    sizes = row_bytes(pa.RecordBatch.from_pydict(plain))
    for start, stop in _cut(sizes[parents]):
        taken = pa.array(parents[start:stop])
        yield {
            **{name: column.take(taken) for name, column in plain.items()},
            **{name: column.slice(start, stop - start) for name, column in small.items()},
        }


def _cut(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut rows of these bytes, [rows], into pieces [start, stop) of `BATCH_BYTES` or of one row."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield start, stop
        start = stop


def _numbered(
    ids: pa.Array, parents: NDArray[np.int64], numbers: NDArray[np.int64]
) -> pa.BinaryArray:
    """The id of each row [rows] with the number of its text."""
    cells = ids.to_pylist()
    return pa.array(
        [
            None if cells[row] is None else cells[row] + b":%d" % (number + 1)
            for row, number in zip(parents.tolist(), numbers.tolist(), strict=True)
        ],
        pa.binary(),
    )
