"""What a source is, the table of all sources, and the settings that several of them share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

import pyarrow as pa
from pydantic import AfterValidator, PrivateAttr

from plumbline.config import Config
from plumbline.data.columns import CANONICAL, SPLITS
from plumbline.errors import ConfigError
from plumbline.registry import Registry
from plumbline.sources.tally import Tally

Piece = object
"""Which rows of a source: every source has its own way to say it."""


class Source(Config, ABC):
    """Settings of one place that rows come from; a subclass has a field `source`, its own name.

    Content passes through unread: whether a cell is any good is for `validate` to say.
    """

    @property
    @abstractmethod
    def given_splits(self) -> list[str]:
        """The splits that the source says it has; an empty one is an error later on."""

    @property
    def rows_bring_splits(self) -> bool:
        """Whether rows may say splits beside `given_splits`; of a plugin's nobody knows."""
        return True

    _tally: Tally = PrivateAttr(default_factory=Tally)

    @property
    def tally(self) -> Tally:
        """What `read` has met so far and cannot use, or takes for something else than it is."""
        return self._tally

    def passes_over(self, name: str) -> str | None:
        """Why a file makes no row, as a tally calls it; None where it is read for rows.

        Empty where there is nothing to count: rows name the file, or nobody can tell, as here.

        Args:
            name: of a file below the dataset's path, with slashes; whether it is hidden is not
                for this method.
        """
        return ""

    def apart(self) -> Self:
        """The same source, which has met nothing yet."""
        copy = self.model_copy()
        copy._tally = Tally()
        return copy

    def pieces(self, path: Path) -> Iterator[Piece] | None:
        """Cut what lies there into pieces, in order, each to be read by itself on any machine.

        None, as here: it can only be read as a whole. A piece holds no rows, but says where they
        are, and can be pickled.

        Args:
            path: the dataset's path.

        Raises:
            ConfigError: the path does not exist.
            DataError: what lies there cannot be read at all.
        """
        return None

    def read_piece(self, path: Path, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a piece, as `read` would; those of all pieces are its rows."""
        raise NotImplementedError(f"source {type(self).__name__} has no pieces")

    def reader_of(self, piece: Piece) -> "Source":
        """The source whose tally tells what was met in a piece."""
        return self

    @abstractmethod
    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all rows in canonical columns, in batches of one schema.

        Args:
            path: the dataset's path; memory must not depend on how many rows lie there.

        Raises:
            ConfigError: the path does not exist.
            DataError: a file cannot be read at all; names it and the remedy.
        """


def cut_numbers(count: int, size: int) -> Iterator[range]:
    """Cut the numbers 0, 1, ... of rows that are made, not found, into pieces."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


SOURCES: Registry[type[Source]] = Registry("source")
"""Name -> settings class. `plumbline.sources.registry` fills it; a plugin adds to it."""


def require_path(path: Path) -> None:
    """Refuse a dataset's path that does not exist.

    Raises:
        ConfigError: names the path and the variable that it usually comes from.
    """
    if not path.exists():
        raise ConfigError(
            f"{path.as_posix()}: no such file or folder; set the dataset's path (PLUMBLINE_DATA)"
        )


def _below(place: str) -> str:
    # What a stage reads outside its declared path would not make it run again when it changes.
    parts = PurePosixPath(place)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{place!r} must lie below the dataset's path")
    return place


def _known_splits(splits: dict[str, str]) -> dict[str, str]:
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"unknown split {min(unknown)!r}; one of {', '.join(SPLITS)}")
    return splits


def _known_columns(columns: dict[str, str]) -> dict[str, str]:
    if unknown := set(columns) - set(CANONICAL):
        raise ValueError(
            f"unknown canonical column {min(unknown)!r}; one of {', '.join(CANONICAL)}"
        )
    return columns


Below = Annotated[str, AfterValidator(_below)]
"""A file or folder below the dataset's path."""

SplitPlaces = Annotated[dict[str, Below], AfterValidator(_known_splits)]
"""Split name (train, val, test) -> file, folder or pattern such as `data/train-*.parquet`.

Empty: all files, split by hash.
"""

ColumnNames = Annotated[dict[str, str], AfterValidator(_known_columns)]
"""Canonical column -> the name that it has in the files."""
