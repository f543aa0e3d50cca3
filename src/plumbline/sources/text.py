"""Source `text`: plain text files, whole or by paragraph or line."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import override

from plumbline.data.columns import SPLITS
from plumbline.sources.base import SplitPlaces, require_path
from plumbline.sources.encoding import Encoding, has_stray_bytes, open_utf8, stray_bytes
from plumbline.sources.file_pieces import FileSource
from plumbline.sources.files import (
    MAX_FILE_BYTES,
    FoundFile,
    LineReader,
    find_files,
    matching,
    name_bytes,
    unreadable,
    why_passed_over,
)
from plumbline.sources.rows import Row, make_batches
from plumbline.sources.tally import ROWS

_BLOCK_BYTES = 2**20


class TextSource(FileSource):
    """Text files below the dataset's path, chosen by `source: text`.

    Rows are numbered by the line in which they begin: `plays/lear.txt:17`.
    """

    source: Literal["text"]
    files: str = "*.txt"
    """Pattern for the names of the files; folders are searched to any depth."""
    unit: Literal["file", "paragraph", "line"] = "file"
    """What becomes a row. Blank lines part paragraphs and are no lines of their own.

    A file is kept to the character; paragraphs and lines lose the line ends at their own end.
    """
    encoding: Encoding = "utf-8"
    """How text stands in the files, by the name that Python has for it: utf-8, cp1252, ..."""
    splits: SplitPlaces = Field(default_factory=dict)
    """Split (train, val, test) -> file, folder or pattern such as `data/train-*`; empty, and
    without shares: all files, split by a hash."""
    shares: dict[Literal["train", "val", "test"], float] = Field(default_factory=dict)
    """Split name -> share of the characters of every file, cut in the order train, val, test.

    The cuts lie at `int(characters * share)` of the shares added up; the last split has the rest.
    """

    @model_validator(mode="after")
    def _one_way_to_split(self) -> "TextSource":
        if self.splits and self.shares:
            raise ValueError("splits and shares both say what is in a split: give one of them")
        given = self.shares.values()
        if given and (min(given) <= 0 or abs(sum(given) - 1) > 1e-6):
            raise ValueError("shares must be positive and add up to 1")
        return self

    @property
    def given_splits(self) -> list[str]:
        """The splits of the files, or those with a share."""
        return sorted(self.splits or self.shares)

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return False

    @override
    def passes_over(self, name: str) -> str | None:
        return why_passed_over(name, self.splits, matching(self.files), f"not named {self.files}")

    @override
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        require_path(root)
        return find_files(root, self.splits, matching(self.files))

    @override
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        columns = ["sample_id", *(["split"] if self.given_splits else []), "text"]
        return make_batches(self._rows(files), columns)

    def _rows(self, files: Iterable[FoundFile]) -> Iterator[Row]:
        for found in files:
            try:
                lines = self.unit != "file"
                with open_utf8(found.path, self.encoding, lines=lines) as file:
                    for row in self._file_rows(file, found):
                        if has_stray_bytes(row["text"] or b""):
                            place = (row["sample_id"] or b"").decode("utf-8", "replace")
                            what, remedy = stray_bytes(self.encoding)
                            self.tally.add(ROWS, what, place, remedy)
                        yield row
            except OSError as error:
                raise unreadable(found.path, error) from None

    def _file_rows(self, file: BinaryIO, found: FoundFile) -> Iterator[Row]:
        shares = list(self._shares.items())
        ends = [sum(share for _, share in shares[: n + 1]) for n in range(len(shares) - 1)]
        stops = cut_characters(file, ends)
        file.seek(0)
        reader = LineReader(file, MAX_FILE_BYTES + 1)
        pieces = zip([name for name, _ in shares] or [found.split], stops, strict=True)
        for number, (split, stop) in enumerate(pieces):
            name = name_bytes(found.name) + (b":" + split.encode() if shares else b"")
            row = {"sample_id": name, "split": split.encode()}
            if self.unit == "file":
                text = file.read(min(stop - file.tell(), MAX_FILE_BYTES + 1))
                if text or (stops[-1] == 0 and number == 0):
                    yield {**row, "text": text}
                file.seek(stop)
                continue
            make_units = _lines if self.unit == "line" else _paragraphs
            for line, text in make_units(reader.lines(stop)):
                yield {**row, "sample_id": name + b":%d" % line, "text": text}

    @property
    def _shares(self) -> dict[str, Fraction]:
        # By way of text: 0.9 means nine tenths, not the nearest binary number.
        return {name: Fraction(str(self.shares[name])) for name in SPLITS if name in self.shares}


def _lines(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for number, line in lines:
        if not line.isspace():
            yield number, _without_end(line)


def _paragraphs(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    first, text, size = 0, [], 0
    for number, line in lines:
        if not line.isspace():
            first = first or number
            size += len(line)
            if size <= MAX_FILE_BYTES + 1:
                text.append(line)
        elif text:
            yield first, _without_end(b"".join(text))
            first, text, size = 0, [], 0
    if text:
        yield first, _without_end(b"".join(text))


def _without_end(text: bytes) -> bytes:
    return text.removesuffix(b"\n").removesuffix(b"\r")


def cut_characters(file: BinaryIO, shares: Sequence[Fraction | int]) -> list[int]:
    """Find the bytes at which shares of the characters end, and the end of the file.

    A character begins at every byte that does not continue another one in UTF-8, so that bytes
    which are no UTF-8 have a place as well.
    """
    size = file.seek(0, 2)
    if not shares:
        return [size]
    total = sum(len(starts) for _, starts in _character_starts(file))
    wanted = [int(total * share) for share in shares]
    stops = {0: 0}
    seen = 0
    for offset, starts in _character_starts(file):
        for number in wanted:
            if seen <= number < seen + len(starts) and number:
                stops[number] = offset + int(starts[number - seen])
        seen += len(starts)
    return [*(stops.get(number, size) for number in wanted), size]


def _character_starts(
    file: BinaryIO,
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    file.seek(0)
    offset = 0
    while block := file.read(_BLOCK_BYTES):
        yield offset, np.flatnonzero(np.frombuffer(block, np.uint8) & 0xC0 != 0x80)
        offset += len(block)
