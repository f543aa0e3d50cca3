"""What `parquet` and `hub` share: tables of Arrow under other people's names for columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import pyarrow as pa
from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.data.columns import CANONICAL
from plumbline.data.nested_fields import find_type
from plumbline.data.turns import NO_TURNS
from plumbline.sources.arrow_columns import (
    ArrowMedia,
    ColumnReader,
    Place,
    accepts,
    holds_texts,
    make_reader,
    part_lists,
    read_class_names,
)
from plumbline.sources.base import Below, ColumnNames, Source
from plumbline.sources.caption_rules import CaptionRules, check_captions, fill_captions
from plumbline.sources.chat import IMAGE_FIELDS, ChatConfig
from plumbline.sources.media_cells import load_medium
from plumbline.sources.rows import Row, Templates, check_templates, fill_templates, from_columns
from plumbline.sources.tally import ROWS, Tally

LIST_BATCH_ROWS = 128
"""Lists that repeat take next to nothing in a file, so that its size says little of theirs."""


class ArrowTableSource(Source):
    """Rows in Arrow batches; text and bytes pass through unread, numbers become cells of them."""

    columns: ColumnNames = Field(default_factory=dict)
    """Without `sample_id`, a row is called by its file and number: `train.parquet:17`.

    A text column that holds lists of texts makes a row of each; a medium may be an object of
    `bytes` and `path`.
    """
    media: ArrowMedia = "bytes"
    """What a text in a column of media is; an object that has no bytes names a file in any case."""
    media_folder: Below = ""
    """The folder that names of files begin in, below the dataset's path."""
    media_ending: str = ""
    """What is put behind names of files, such as `.jpg` where a table has bare ids."""
    class_names: bool = True
    """Whether a label that is a number becomes the name that the schema's metadata has for it."""
    captions: CaptionRules = Field(default_factory=list)
    """For data without captions: the first rule that matches a row makes its caption."""
    templates: Templates = Field(default_factory=dict)
    """Text column -> a text with `{column}` where the value of another column of the row goes."""
    chat: ChatConfig | None = None
    """Read the rows as conversations; None: they are none."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if not (self.columns or self.chat):
            raise ValueError("columns must name one column at least")
        check_captions(self.captions, set(self.columns))
        made = self.chat.columns if self.chat else frozenset()
        if twice := sorted(made & set(self.columns)):
            raise ValueError(f"columns has {twice[0]}, which chat makes of other fields")
        there = {"sample_id", *self.columns, *(["caption"] if self.captions else []), *made}
        check_templates(self.templates, there)
        return self

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return "split" in self.columns

    @property
    def required(self) -> dict[str, pa.DataType]:
        """Name of a column that tables must have -> the canonical type; chat's are texts to it."""
        chat = self.chat.needed.values() if self.chat else ()
        ours = {theirs: CANONICAL[ours] for ours, theirs in self.columns.items()}
        return {**dict.fromkeys(chat, pa.string()), **ours}

    @property
    def optional(self) -> dict[str, pa.DataType]:
        """The same of columns that tables may have."""
        return dict.fromkeys(self.chat.optional.values() if self.chat else (), pa.string())

    def can_convert(self, theirs: str, kind: pa.DataType) -> bool:
        """Whether another type than the canonical one will do for a column."""
        if self.chat and theirs in self.chat.names:
            return True  # lists of structs, or whatever: the dialect looks at the values
        return all(accepts(o, kind, self.media) for o, t in self.columns.items() if t == theirs)

    def make_readers(self, schema: pa.Schema, root: Path) -> dict[str, ColumnReader]:
        """A reader of each column of a table."""
        classes = read_class_names(schema) if self.class_names else {}
        place = Place(root / self.media_folder, self.media, self.media_ending, classes)
        return {ours: make_reader(ours, t, schema, place) for ours, t in self.columns.items()}

    def has_lists(self, schema: pa.Schema) -> bool:
        """Whether cells of a table hold lists, whose bytes a file says little of."""
        lists = (holds_texts(ours, find_type(schema, t)) for ours, t in self.columns.items())
        return bool(self.chat) or "features" in self.columns or any(lists)

    def canonical(
        self, batch: pa.RecordBatch, readers: Mapping[str, ColumnReader], rows: "RowPlaces"
    ) -> Iterator[pa.RecordBatch]:
        """Bring a batch that has the fields of the readers, and of the chat, into our columns."""
        columns = {ours: reader.make(batch, rows.note) for ours, reader in readers.items()}
        if "sample_id" not in columns:
            ids = [rows.place(row) for row in range(batch.num_rows)]
            columns["sample_id"] = pa.array(ids, pa.binary())
        if self.chat:
            columns |= _make_turns(batch, self.chat, rows.root / self.media_folder)
        for piece in part_lists(columns, rows.note):
            if split := rows.split:
                piece["split"] = pa.array([split.encode()] * len(piece["sample_id"]), pa.binary())
            captioned = fill_captions(from_columns(piece), self.captions)
            yield fill_templates(captioned, self.templates)


@dataclass(frozen=True)
class RowPlaces:
    """The rows of a batch by their places in a table."""

    root: Path
    """The dataset's path."""
    table: bytes
    """Its name."""
    split: str
    """Empty where none is given."""
    first: int
    """Number of the rows before them."""
    tally: Tally

    def place(self, row: int) -> bytes:
        """Table and number, from 1 on."""
        return self.table + b":%d" % (self.first + row + 1)

    def note(self, what: str, row: int, said: str = "") -> None:
        """Count a row."""
        place = self.place(row).decode("utf-8", "replace")
        self.tally.add(ROWS, what, f"{place} ({said})" if said else place)


def _make_turns(batch: pa.RecordBatch, chat: ChatConfig, root: Path) -> dict[str, pa.Array]:
    names = [name for name in batch.schema.names if name in chat.names]
    shown = {named for ours, named in chat.optional.items() if ours in IMAGE_FIELDS}
    load = partial(load_medium, root=root, media="path")
    rows: list[Row] = []
    for row in range(batch.num_rows):
        try:
            values = {name: batch.column(name)[row].as_py() for name in names}
        except UnicodeDecodeError as error:  # of a text within a list
            rows.append({"turns": f"{NO_TURNS}not UTF-8 at byte {error.start}".encode()})
        else:
            # Bytes of an image field are an image.
            record = {n: v if n in shown else _plain(v) for n, v in values.items()}
            rows.append(chat.make_cells(record, load))
    return {name: pa.array([row.get(name) for row in rows], pa.binary()) for name in chat.columns}


def _plain(value: object) -> object:
    # Text comes as bytes, which nobody has looked at: those that are no UTF-8 become surrogates.
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
