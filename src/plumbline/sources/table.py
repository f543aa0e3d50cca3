"""What `jsonl` and `csv` share: a row a record, files under their own names for columns."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.data.arrays import encode_array
from plumbline.data.columns import CANONICAL, KEYS, MEDIA, SHOWN
from plumbline.errors import ConfigError, DataError
from plumbline.sources.base import Below, ColumnNames, SplitPlaces, require_path
from plumbline.sources.caption_rules import CaptionRules, check_captions, fill_captions
from plumbline.sources.encoding import Encoding, encode_text, has_stray_bytes, stray_bytes
from plumbline.sources.file_pieces import FileSource
from plumbline.sources.files import (
    FoundFile,
    find_files,
    matching,
    name_bytes,
    why_passed_over,
)
from plumbline.sources.media_cells import (
    MAX_SHOWN_CHARS,
    NOT_THERE,
    Media,
    is_url,
    load_medium,
)
from plumbline.sources.rows import (
    Row,
    Templates,
    check_templates,
    fill_templates,
    make_batches,
)
from plumbline.sources.tally import ROWS

_REMEDY = "set media_folder to the folder that the names begin in, or put the file there"


class TableSource(FileSource):
    """Files of records. A record that cannot be read becomes a row without content.

    Such a row has the file and its number as `sample_id`, and validation files it.
    """

    files: str
    """Pattern for the names of the files; folders are searched to any depth."""
    splits: SplitPlaces = Field(default_factory=dict)
    """Split (train, val, test) -> file, folder or pattern such as `data/train-*`; empty: all files,
    split by a hash of `group`."""
    columns: ColumnNames = Field(default_factory=dict)
    """Without `sample_id`, a row is called by its file and number: `train.csv:17`."""
    media: Media = "path"
    """How image, audio and features stand in a cell: a file, or bytes in base64.

    A `data:` URL is its bytes in any case.
    """
    media_folder: Below = ""
    """The folder that names of files begin in, below the dataset's path."""
    media_ending: str = ""
    """What is put behind names of files, such as `.jpg` where a table has bare ids."""
    captions: CaptionRules = Field(default_factory=list)
    """For data without captions: the first rule that matches a row makes its caption."""
    templates: Templates = Field(default_factory=dict)
    """Text column -> a text with `{column}` where the value of another column of the row goes."""
    encoding: Encoding = "utf-8"
    """How text stands in the files, by the name that Python has for it: utf-8, cp1252, ..."""

    @model_validator(mode="after")
    def _templates_fit(self) -> "TableSource":
        if not (set(self.columns) | self.made_columns) - set(KEYS):
            raise ValueError("columns must name one column with content")
        if self.splits and "split" in self.columns:
            raise ValueError("splits and a split column both say what is in a split")
        if twice := sorted(self.made_columns & set(self.columns)):
            raise ValueError(f"columns has {twice[0]}, which is made of other fields")
        if self.media != "path" and (self.media_folder or self.media_ending):
            raise ValueError("media_folder and media_ending are of files; media is base64")
        check_captions(self.captions, set(self.columns))
        there = {*self.columns, *self.made_columns, *(["caption"] if self.captions else [])}
        check_templates(self.templates, {*there, "sample_id"})
        return self

    @property
    def made_columns(self) -> frozenset[str]:
        """Columns that are made of a record's other fields."""
        return frozenset()

    def make_cells(
        self, record: Mapping[str, object], load: Callable[[object], bytes | None]
    ) -> Row:
        """The cells of `made_columns`; `load` reads an image that the record holds or names."""
        return {}

    @property
    def _names_files(self) -> bool:
        """Whether rows name files beside the table."""
        return self.media == "path" and bool({*self.columns, *self.made_columns} & set(SHOWN))

    @property
    def given_splits(self) -> list[str]:
        """The splits that the files come in."""
        return sorted(self.splits)

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return "split" in self.columns

    @override
    def passes_over(self, name: str) -> str | None:
        # Where rows name files, a file that is no table is one of those.
        why = why_passed_over(name, self.splits, matching(self.files), f"not named {self.files}")
        return "" if why and self._names_files else why

    @abstractmethod
    def records(self, path: Path) -> Iterator[tuple[int, Mapping[str, object] | None]]:
        """Yield the number and the fields of each record; None for one that is broken.

        Fields are under the names of the files; text is a str or bytes.
        """

    @override
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        require_path(root)
        if root.is_file() and self._names_files:
            raise ConfigError(
                f"{root.as_posix()}: is one file, but its rows name others: set the dataset's path "
                "to the folder of them all"
            )
        if self._names_files and not (root / self.media_folder).is_dir():
            folder = (root / self.media_folder).as_posix()
            raise DataError(f"{folder}: no such folder; set media_folder to that of the files")
        yield from find_files(root, self.splits, matching(self.files))

    @override
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        there = {"sample_id", *self.columns, *self.made_columns}
        there |= {"split"} if self.splits else set()
        columns = [name for name in CANONICAL if name in there]
        for batch in make_batches(self._rows(root, files), columns):
            yield fill_templates(fill_captions(batch, self.captions), self.templates)

    def _rows(self, root: Path, files: Iterable[FoundFile]) -> Iterator[Row]:
        for found in files:
            for number, record in self.records(found.path):
                if record is None:
                    place = f"{found.name}:{number}"
                    self.tally.add(ROWS, "are broken and reach validation empty", place)
                yield self._row(record or {}, found, number, root)

    def _row(self, record: Mapping[str, object], found: FoundFile, number: int, root: Path) -> Row:
        place = name_bytes(found.name) + b":%d" % number
        row: dict[str, bytes | None] = {"sample_id": place}
        for ours, theirs in self.columns.items():
            value = record.get(theirs)
            cell = self._cell(ours, value, root, place)
            if isinstance(value, str) and has_stray_bytes(value):
                self._note_stray_bytes(place)
            if ours != "sample_id" or record:
                row[ours] = cell
        load = partial(load_medium, root=root / self.media_folder, media=self.media)
        for ours, cell in self.make_cells(record, load).items():
            row[ours] = cell
            if cell is not None and ours not in SHOWN and has_stray_bytes(cell):
                self._note_stray_bytes(place)
        if found.split:
            row["split"] = found.split.encode()
        return row

    def _note_stray_bytes(self, place: bytes) -> None:
        what, remedy = stray_bytes(self.encoding)
        self._note(what, place, remedy)

    def _note(self, what: str, place: bytes, remedy: str = "") -> None:
        self.tally.add(ROWS, what, place.decode("utf-8", "replace"), remedy)

    def _cell(self, ours: str, value: object, root: Path, place: bytes) -> bytes | None:
        if ours in MEDIA and isinstance(value, str):
            if value:
                return self._load(value, root, place)
            cell = None
        else:
            cell = make_cell(ours, value)
        if cell is None and value is not None:
            self._note(f"hold nothing usable as {ours}", place)
        return cell

    def _load(self, name: str, root: Path, place: bytes) -> bytes | None:
        name = name if is_url(name) else name + self.media_ending
        cell = load_medium(name, root / self.media_folder, self.media)
        if cell is None:
            # Below the dataset's path: where that lies is not for an output to hold.
            named = (PurePosixPath(self.media_folder) / name).as_posix()[:MAX_SHOWN_CHARS]
            where = f"{place.decode('utf-8', 'replace')} ({named})"
            self.tally.add(ROWS, NOT_THERE, where, _REMEDY)
        return cell


def make_cell(column: str, value: object) -> bytes | None:
    """Bring a value to the bytes of a cell; None where it is nothing that the column can hold.

    Numbers become text as Python writes them, truth values `true` and `false`. Lists of numbers
    are `features` only.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return encode_text(value)
    if column == "features":
        return encode_array(value) if isinstance(value, list) else None
    if column in MEDIA or not isinstance(value, bool | int | float):
        return None
    return (str(value).lower() if isinstance(value, bool) else repr(value)).encode()
