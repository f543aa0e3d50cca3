"""Source `webdataset`: shards of tar in which the files of a sample follow each other."""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.data.columns import CANONICAL, CONTENT, KEYS, SHOWN
from plumbline.errors import DataError
from plumbline.sources.base import ColumnNames, SplitPlaces, require_path
from plumbline.sources.caption_rules import CaptionRules, check_captions, fill_captions
from plumbline.sources.encoding import has_stray_bytes, stray_bytes
from plumbline.sources.file_pieces import FileSource
from plumbline.sources.files import (
    MAX_FILE_BYTES,
    FoundFile,
    find_files,
    is_ours,
    matching,
    name_bytes,
    unreadable,
    why_passed_over,
)
from plumbline.sources.jsonl import parse_object, reach
from plumbline.sources.rows import (
    Row,
    Templates,
    check_templates,
    fill_templates,
    make_batches,
)
from plumbline.sources.table import make_cell
from plumbline.sources.tally import MEMBERS, ROWS

MAX_NOTE_BYTES = 2**20
"""A longer name or extended header in a tar is refused: it would be read into memory."""

_NOTES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_JSON = "json"


class WebDatasetSource(FileSource):
    """Shards below the dataset's path, chosen by `source: webdataset`.

    The name of a file up to the first dot is the key of its sample, what follows says what it is:
    `000017.jpg`, `000017.txt` and `000017.json` are one row, `00000.tar:000017`.
    """

    source: Literal["webdataset"]
    files: str = "*.tar"
    """Pattern for the names of the shards; folders are searched to any depth."""
    splits: SplitPlaces = Field(default_factory=dict)
    """Split (train, val, test) -> shard, folder or pattern such as `train-*.tar`; empty: all
    shards, split by a hash of `group`."""
    columns: ColumnNames
    """Canonical column -> what follows the key: `jpg`, one of several as `jpg;jpeg;png`, or a field
    of an object as `json.caption`."""
    captions: CaptionRules = Field(default_factory=list)
    """For data without captions: the first rule that matches a row makes its caption."""
    templates: Templates = Field(default_factory=dict)
    """Text column -> a text with `{column}` where the value of another column of the row goes."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if not set(self.columns) - set(KEYS):
            raise ValueError("columns must name one column with content")
        if self.splits and "split" in self.columns:
            raise ValueError("splits and a split column both say what is in a split")
        check_captions(self.captions, set(self.columns))
        made = ["caption"] if self.captions else []
        check_templates(self.templates, {*self.columns, *made, "sample_id"})
        return self

    @property
    def given_splits(self) -> list[str]:
        """The splits that the shards come in."""
        return sorted(self.splits)

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return "split" in self.columns

    @override
    def passes_over(self, name: str) -> str | None:
        return why_passed_over(name, self.splits, matching(self.files), f"not named {self.files}")

    @override
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        require_path(root)
        return find_files(root, self.splits, matching(self.files))

    @override
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        there = {"sample_id", *self.columns, *(["split"] if self.splits else [])}
        columns = [name for name in CANONICAL if name in there]
        for batch in make_batches(self._rows(files), columns):
            yield fill_templates(fill_captions(batch, self.captions), self.templates)

    def _rows(self, files: Iterable[FoundFile]) -> Iterator[Row]:
        places = {ours: _Place.parse(theirs) for ours, theirs in self.columns.items()}
        wanted = {ending for place in places.values() for ending in place.endings}
        for found in files:
            note = partial(self._pass_over, found)
            for key, members in iter_samples(found.path, wanted, note):
                yield self._row(found, key, members, places)

    def _pass_over(self, shard: FoundFile, member: str, why: str) -> None:
        self.tally.add(MEMBERS, f"passed over: {why}", f"{shard.name}:{member}")

    def _row(
        self,
        shard: FoundFile,
        key: str,
        members: Mapping[str, bytes],
        places: Mapping[str, "_Place"],
    ) -> Row:
        place = name_bytes(shard.name) + b":" + key.encode("utf-8", "surrogateescape")
        row: dict[str, bytes | None] = {"sample_id": place}
        said = place.decode("utf-8", "replace")
        objects = {
            ending: parse_object(data)
            for ending, data in members.items()
            if any(named.field and ending in named.endings for named in places.values())
        }
        for ending, read in objects.items():
            if read is None:
                self.tally.add(ROWS, f"have a .{ending} that is no JSON object", said)
        for ours, named in places.items():
            ending = next((e for e in named.endings if e in members), "")
            if ending and named.field:
                value = reach(objects[ending] or {}, named.field)
                row[ours] = make_cell(ours, value)
                if value is not None and row[ours] is None:
                    self.tally.add(ROWS, f"hold nothing usable as {ours}", said)
            elif ending:
                row[ours] = members[ending] if ours in SHOWN else _without_end(members[ending])
            cell = row.get(ours)
            if cell and CONTENT.get(ours) in ("text", "label") and has_stray_bytes(cell):
                what, _ = stray_bytes("utf-8")
                self.tally.add(ROWS, what, said)
        if shard.split:
            row["split"] = shard.split.encode()
        return row


def iter_samples(
    path: Path,
    wanted: AbstractSet[str] | None = None,
    pass_over: Callable[[str, str], None] = lambda member, why: None,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of each sample of a shard and its files by what follows the key.

    Args:
        path: the shard.
        wanted: endings of the files that are read; None: all.
        pass_over: told the name of each file that is not, and why.

    Raises:
        DataError: it cannot be read, is no tar, is damaged or cut off.
    """
    now, members = "", dict[str, bytes]()
    for name, data in _iter_members(path, wanted, pass_over):
        key, ending = _split_name(name)
        if key != now and members:
            yield now, members
            members = {}
        now = key
        if ending in members:
            pass_over(name, "named twice in a sample")
        else:
            members[ending] = data
    if members:
        yield now, members


def _iter_members(
    path: Path, wanted: AbstractSet[str] | None, pass_over: Callable[[str, str], None]
) -> Iterator[tuple[str, bytes]]:
    try:
        with (
            path.open("rb") as file,
            tarfile.TarFile(fileobj=file, mode="r", tarinfo=_BoundedInfo) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or the archive keeps the head of every file
                if why := _why_unread(member, wanted):
                    pass_over(member.name, why)
                elif member.isreg() and (content := tar.extractfile(member)) is not None:
                    # Its own size: a larger number is a buffer that is made for each file.
                    size = min(member.size, MAX_FILE_BYTES + 1)
                    yield member.name, content.read(size)
            # The library takes a damaged head behind the first for the end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")
    except tarfile.TarError as error:
        raise DataError(
            f"{path.as_posix()}: not readable as tar ({error}); is it whole, and not compressed?"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


class _Place:
    """Where a column stands in a sample: the endings of its file, and the field of an object."""

    def __init__(self, endings: tuple[str, ...], field: str) -> None:
        self.endings, self.field = endings, field

    @classmethod
    def parse(cls, text: str) -> "_Place":
        parts = text.split(".")
        if _JSON in parts[:-1]:
            at = parts.index(_JSON) + 1
            return cls((".".join(parts[:at]),), ".".join(parts[at:]))
        return cls(tuple(text.lower().split(";")), "")


def _why_unread(member: tarfile.TarInfo, wanted: AbstractSet[str] | None) -> str:
    """Why a member is not read; empty where it is, and for folders."""
    key, ending = _split_name(member.name)
    if member.isdir():
        return ""
    if not member.isreg():
        return "a link or a device"
    # Not by pathlib: it interns each part of each name, in a table that grows by as many.
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if not all(map(is_ours, parts)) or not key:
        return "hidden"
    return "" if wanted is None or ending in wanted else f".{ending} is in no column"


class _BoundedInfo(tarfile.TarInfo):
    """Heads of files, without those that are themselves of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _NOTES and found.size > MAX_NOTE_BYTES:
            raise tarfile.ReadError(f"a name or a header of {found.size} bytes")
        return found


def _split_name(name: str) -> tuple[str, str]:
    """The key of a file's sample, and what follows it, in small letters."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, ending = file.partition(".")
    return (folder + slash + key if key else ""), ending.lower()


def _without_end(text: bytes) -> bytes:
    return text.removesuffix(b"\n").removesuffix(b"\r")
