"""What a source is, the table of all sources, and the settings that several of them share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import pyarrow as pa
from pydantic import AfterValidator, PrivateAttr

from plumbline.config import Config
from plumbline.data.columns import CANONICAL, SPLITS
from plumbline.errors import ConfigError
from plumbline.registry import Registry
from plumbline.sources.tally import Tally


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

    @abstractmethod
    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield all rows in canonical columns, in batches of one schema.

        Args:
            path: the dataset's path; memory must not depend on how many rows lie there.

        Raises:
            ConfigError: the path does not exist.
            DataError: a file cannot be read at all; names it and the remedy.
        """


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
