"""Sources `imagefolder` and `audiofolder`: files in a folder for each label."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from plumbline.data.columns import CANONICAL, SHOWN
from plumbline.errors import DataError
from plumbline.scratch import scratch_folder
from plumbline.sources.base import Below, ColumnNames, Piece, SplitPlaces, require_path
from plumbline.sources.csv import CsvForm, read_records
from plumbline.sources.encoding import Encoding, encode_text, has_stray_bytes, stray_bytes
from plumbline.sources.file_pieces import FileSource
from plumbline.sources.files import (
    SPLIT_WORDS,
    FoundFile,
    check_place,
    find_files,
    list_folders,
    name_bytes,
    read_file,
    why_passed_over,
)
from plumbline.sources.patterns import is_pattern
from plumbline.sources.rows import (
    Row,
    Templates,
    check_templates,
    fill_templates,
    make_batches,
)
from plumbline.sources.tally import ROWS, Tally, ending_of


class FolderTable(CsvForm):
    """A table with more about the files; a file with several lines becomes as many rows."""

    file: Below
    """Its place below the dataset's path; `{split}` stands for the place of each split."""
    encoding: Encoding = "utf-8"
    """How text stands in it, by the name that Python has for it: utf-8, cp1252, ..."""
    key: str = "file_name"
    """The column that names a file, by its path from the folder of the table."""
    columns: ColumnNames
    """Canonical column -> the name that it has in the table."""

    def files(self, splits: Mapping[str, str]) -> set[str]:
        """Its places, as names below the dataset's path."""
        places = splits.values() or [""]
        return {PurePosixPath(self.file.replace("{split}", place)).as_posix() for place in places}

    @model_validator(mode="after")
    def _describes_files(self) -> "FolderTable":
        if wrong := set(self.columns) & {"sample_id", "split", "part", *SHOWN}:
            raise ValueError(f"{min(wrong)} is not for the table to say")
        return self


class FolderSource(FileSource):
    """Files of one medium, `<split>/<label>/.../<file>`; other files are counted."""

    column: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]

    splits: SplitPlaces = Field(default_factory=dict)
    """Split (train, val, test) -> its folder; empty: all files, split by a hash."""
    labels: Literal["folder", "none"] = "folder"
    """Where a file's label comes from: the first folder below its split; `none`: it has none."""
    endings: Literal["known", "any"] = "known"
    """Which files are read: those whose endings are of the medium, or all, for names without."""
    table: FolderTable | None = None
    """A table with more about the files; None: their folders say all."""
    templates: Templates = Field(default_factory=dict)
    """Text column -> a text with `{column}` where the value of another column of the row goes."""

    @field_validator("splits")
    @classmethod
    def _are_folders(cls, splits: dict[str, str]) -> dict[str, str]:
        for place in filter(is_pattern, splits.values()):
            raise ValueError(f"{place!r}: a folder is needed, as labels are read below it")
        return splits

    @model_validator(mode="after")
    def _columns_fit(self) -> "FolderSource":
        if self.labels == "folder" and self.table and "label" in self.table.columns:
            raise ValueError("label comes from the folder; set labels to none to take the table's")
        check_templates(self.templates, set(self._columns))
        return self

    @property
    def _columns(self) -> list[str]:
        there = {"sample_id", self.column}
        there |= {"split"} if self.splits else set()
        there |= {"label"} if self.labels == "folder" else set()
        there |= {"group", *self.table.columns} if self.table else set()
        return [name for name in CANONICAL if name in there]

    @property
    def given_splits(self) -> list[str]:
        """The splits that have a folder."""
        return sorted(self.splits)

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return False

    @override
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        require_path(root)
        yield from self._files(root)

    @override
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        for batch in make_batches(self._rows(root, files), self._columns):
            yield fill_templates(batch, self.templates)

    @override
    def pieces(self, path: Path) -> Iterator[Piece] | None:
        # Of a table only all files together tell which of its lines are about none.
        return None if self.table else super().pieces(path)

    def _rows(self, root: Path, files: Iterable[FoundFile]) -> Iterator[Row]:
        if self.table is None:
            for found in files:
                yield self._row(found)
            return
        with scratch_folder() as folder:
            lines = _TableLines(folder / "lines.db", self.table, self.tally)
            try:
                for split, place in self.splits.items() or [("", "")]:
                    lines.add(root, split, place)
                for found in files:
                    yield from self._joined(found, lines)
                for row in lines.unused():
                    place = (row["sample_id"] or b"").decode("utf-8", "replace")
                    self.tally.add(ROWS, "of the table name no file", place)
                    yield row
            finally:
                lines.close()

    def _files(self, root: Path) -> Iterator[FoundFile]:
        if self.labels == "folder" and not self.splits and root.is_dir():
            _refuse_splits(root)
        tables = self.table.files(self.splits) if self.table else set()
        seen = False
        for found in find_files(root, self.splits, self._wants):
            if found.name in tables:
                continue
            if self.labels == "none" or self._label(found) is not None:
                seen = True
                yield found
        if not seen:
            inside = "in folders named for their labels" if self.labels == "folder" else "there"
            raise DataError(
                f"{root.as_posix()}: no {self.column} files {inside}; expected "
                f"{', '.join(sorted(self.suffixes))}"
            )

    def _wants(self, name: str) -> bool:
        return self.endings == "any" or PurePosixPath(name).suffix.lower() in self.suffixes

    @override
    def passes_over(self, name: str) -> str | None:
        # Endings are told one by one.
        if self.table and name in self.table.files(self.splits):
            return ""
        known = ", ".join(sorted(self.suffixes))
        ending = f"ending {ending_of(name)} is none of {known}"
        why = why_passed_over(name, self.splits, self._wants, ending)
        if why is None and self.labels == "folder" and not self._in_folder(name):
            return "passed over: in no folder named for a label"
        return why

    def _in_folder(self, name: str) -> bool:
        places = [PurePosixPath(place) for place in self.splits.values()] or [PurePosixPath()]
        path = PurePosixPath(name)
        return any(
            path.is_relative_to(place) and len(path.relative_to(place).parts) > 1
            for place in places
        )

    def _label(self, found: FoundFile) -> str | None:
        """The first folder below the split's place; None for a file that lies in the place."""
        place = self.splits.get(found.split, "")
        parts = PurePosixPath(found.name).relative_to(place).parts
        return parts[0] if len(parts) > 1 else None

    def _row(self, found: FoundFile) -> dict[str, bytes | None]:
        row: dict[str, bytes | None] = {
            "sample_id": name_bytes(found.name),
            self.column: read_file(found.path),
        }
        if found.split:
            row["split"] = found.split.encode()
        if self.labels == "folder":
            row["label"] = name_bytes(self._label(found) or "")
        return row

    def _joined(self, found: FoundFile, lines: "_TableLines") -> Iterator[Row]:
        row = {"group": name_bytes(found.name), **self._row(found)}
        told = lines.about(found)
        for number, line in enumerate(told or [{}]):
            name = name_bytes(found.name) + (b":%d" % (number + 1) if len(told) > 1 else b"")
            yield {**row, **line, "sample_id": name}


def _refuse_splits(root: Path) -> None:
    """Refuse folders of splits as labels: a model would learn to tell train from test."""
    folders = list_folders(root)
    splits = {SPLIT_WORDS[name.lower()]: name for name in folders if name.lower() in SPLIT_WORDS}
    if folders and all(name.lower() in SPLIT_WORDS for name in folders):
        told = ", ".join(f"{split}: {name}" for split, name in splits.items())
        raise DataError(
            f"{root.as_posix()}: its folders {', '.join(folders)} are named for splits, not for "
            f"labels; set splits: {{{told}}}"
        )


class _TableLines:
    """The lines of a table by the file that they are about, on disk."""

    def __init__(self, path: Path, table: FolderTable, tally: Tally) -> None:
        self._table, self._tally = table, tally
        self._names = list(table.columns)
        self._db = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            self._db.execute(f"PRAGMA {setting}")
        cells = "".join(f", c{number} BLOB" for number in range(len(self._names)))
        self._db.execute(
            f"CREATE TABLE lines (name BLOB, split TEXT, id BLOB, used INT DEFAULT 0{cells})"
        )
        self._cells = ", ".join(f"c{number}" for number in range(len(self._names)))

    def add(self, root: Path, split: str, place: str) -> None:
        """Add the lines about the files of a split, which lies at `place` below `root`."""
        one_for_all = "{split}" not in self._table.file
        if one_for_all and self._db.execute("SELECT 1 FROM lines LIMIT 1").fetchone():
            return
        file = PurePosixPath(self._table.file.replace("{split}", place))
        names = {self._table.key, *self._table.columns.values()}
        marks = ", ".join("?" * (4 + len(self._names)))
        self._db.execute("BEGIN")
        table = self._table
        check_place(root / file, root.resolve())
        records = read_records(
            root / file,
            names,
            table,
            encoding=table.encoding,
            tally=self._tally,
        )
        for number, record in records:
            told = {} if record is None else record
            cells = [
                encode_text(told[theirs]) if told else None
                for theirs in self._table.columns.values()
            ]
            about = (file.parent / told[self._table.key]).as_posix() if told else ""
            line = name_bytes(file.as_posix()) + b":%d" % number
            if any(map(has_stray_bytes, told.values())):
                what, remedy = stray_bytes(table.encoding)
                self._tally.add(ROWS, what, f"{file}:{number}", remedy)
            values = (encode_text(about), "" if one_for_all else split, line, 0, *cells)
            self._db.execute(f"INSERT INTO lines VALUES ({marks})", values)  # noqa: S608
        self._db.execute("COMMIT")
        self._db.execute("CREATE INDEX IF NOT EXISTS by_name ON lines (name)")

    def about(self, found: FoundFile) -> list[dict[str, bytes | None]]:
        """The cells of each line about a file, in the order of the table."""
        name = name_bytes(found.name)
        told = self._db.execute(
            f"SELECT {self._cells} FROM lines WHERE name = ? ORDER BY rowid",  # noqa: S608
            (name,),
        ).fetchall()
        self._db.execute("UPDATE lines SET used = 1 WHERE name = ?", (name,))
        return [dict(zip(self._names, cells, strict=True)) for cells in told]

    def unused(self) -> Iterator[dict[str, bytes | None]]:
        """Rows for the lines about files that are not there: without the medium."""
        query = f"SELECT id, split, {self._cells} FROM lines WHERE used = 0 ORDER BY rowid"  # noqa: S608
        for line, split, *cells in self._db.execute(query):
            row = dict(zip(self._names, cells, strict=True))
            yield {**row, "sample_id": line, "split": split.encode() or None}

    def close(self) -> None:
        """Release the file."""
        self._db.close()


class ImageFolderSource(FolderSource):
    """Images in a folder for each label, as torchvision has them; by `source: imagefolder`."""

    column: ClassVar[str] = "image"
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {
            *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
            *(".tif", ".tiff", ".webp"),
        }
    )
    source: Literal["imagefolder"]


class AudioFolderSource(FolderSource):
    """Sounds in a folder for each label; chosen by `source: audiofolder`."""

    column: ClassVar[str] = "audio"
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}
    )
    source: Literal["audiofolder"]
