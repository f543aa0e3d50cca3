"""Source `parts`: several sources as one dataset, each with labels of its own."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import pyarrow as pa
from pydantic import AfterValidator
from typing_extensions import override

from plumbline.data.columns import CANONICAL
from plumbline.errors import DataError
from plumbline.names import RULE, is_name
from plumbline.registry import OneOf
from plumbline.sources.base import SOURCES, Piece, Source
from plumbline.sources.rows import from_columns
from plumbline.sources.tally import Tally, merged


def _is_part(name: str) -> str:
    if not is_name(name):
        raise ValueError(f"{name!r} is not a name that can be used: {RULE}")
    return name


PartName = Annotated[str, AfterValidator(_is_part)]


def _not_nested(parts: dict[str, Source]) -> dict[str, Source]:
    if not parts:
        raise ValueError("name at least one part")
    if nested := [name for name, part in parts.items() if isinstance(part, PartsSource)]:
        raise ValueError(f"part {nested[0]} has parts itself; name them all side by side")
    return parts


class PartsSource(Source):
    """Sources that read below the same path, chosen by `source: parts`."""

    source: Literal["parts"]
    parts: Annotated[
        dict[PartName, Annotated[Source, OneOf(SOURCES, "source")]], AfterValidator(_not_nested)
    ]
    """Name of the part -> its source; a row belongs to the part that it is read for."""

    @property
    def given_splits(self) -> list[str]:
        """The splits that any of the parts has."""
        return sorted({split for part in self.parts.values() for split in part.given_splits})

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return any(part.rows_bring_splits for part in self.parts.values())

    @property
    @override
    def tally(self) -> Tally:
        return merged({name: part.tally for name, part in self.parts.items()})

    @override
    def passes_over(self, name: str) -> str | None:
        # What no part reads.
        reasons = {part.passes_over(name) for part in self.parts.values()}
        for settled in (None, ""):
            if settled in reasons:
                return settled
        return reasons.pop() if len(reasons) == 1 else "passed over by every part"

    @override
    def apart(self) -> Self:
        return self.model_copy(
            update={"parts": {n: part.apart() for n, part in self.parts.items()}}
        )

    @override
    def pieces(self, path: Path) -> Iterator[Piece] | None:
        return self._cut(path)

    def _cut(self, path: Path) -> Iterator["_PartPiece"]:
        # What is met on the way to the first rows is counted with their piece.
        columns = _columns(_peek(n, part.apart().read(path))[0] for n, part in self.parts.items())
        for name, part in self.parts.items():
            pieces = part.pieces(path)
            for piece in [None] if pieces is None else pieces:
                yield _PartPiece(name, columns, piece)

    @override
    def read_piece(self, path: Path, piece: Piece) -> Iterator[pa.RecordBatch]:
        assert isinstance(piece, _PartPiece), "as it was cut"
        part = self.parts[piece.part]
        whole = piece.piece is None
        for batch in part.read(path) if whole else part.read_piece(path, piece.piece):
            yield _tag(batch, piece.part, piece.columns)

    @override
    def reader_of(self, piece: Piece) -> Source:
        assert isinstance(piece, _PartPiece), "as it was cut"
        return self.parts[piece.part]

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the parts, one part after another, with all columns of any of them."""
        opened = {name: _peek(name, part.read(path)) for name, part in self.parts.items()}
        columns = _columns(first for first, _ in opened.values())
        for name, (first, rest) in opened.items():
            for batch in chain([first], rest):
                yield _tag(batch, name, columns)


class _PartPiece(NamedTuple):
    part: str
    columns: list[str]
    """Of all parts together."""
    piece: Piece
    """None: all of the part, which has no pieces."""


def _columns(batches: Iterable[pa.RecordBatch]) -> list[str]:
    there = {column for batch in batches for column in batch.schema.names}
    return [name for name in CANONICAL if name in there or name == "part"]


def _peek(
    name: str, batches: Iterator[pa.RecordBatch]
) -> tuple[pa.RecordBatch, Iterator[pa.RecordBatch]]:
    first = next(batches, None)
    if first is None:
        raise DataError(f"part {name} has zero rows; check its files, or leave it out")
    if "part" in first.schema.names:
        raise DataError(f"part {name} has a part column itself; take it as a dataset of its own")
    return first, batches


def _tag(batch: pa.RecordBatch, part: str, columns: list[str]) -> pa.RecordBatch:
    filled = {
        name: batch.column(name).view(pa.binary())
        if name in batch.schema.names
        else pa.nulls(batch.num_rows, pa.binary())
        for name in columns
    }
    filled["part"] = pa.repeat(pa.scalar(part.encode(), pa.binary()), batch.num_rows)
    return from_columns(filled)
