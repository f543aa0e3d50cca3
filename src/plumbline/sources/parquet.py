"""Source `parquet`: somebody's Parquet files, brought into the canonical columns.

Text and bytes pass through unread, numbers and lists of numbers become cells of them: whether a
cell is any good is for `validate` to say.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from plumbline.data.parquet import BATCH_ROWS, check_schema, iter_batches, open_parquet
from plumbline.errors import DataError
from plumbline.sources.arrow_table import LIST_BATCH_ROWS, ArrowTableSource, RowPlaces
from plumbline.sources.base import SplitPlaces, require_path
from plumbline.sources.file_pieces import FileSource
from plumbline.sources.files import (
    FoundFile,
    find_files,
    matching,
    name_bytes,
    why_passed_over,
)

FILES = "*.parquet"


class ParquetSource(ArrowTableSource, FileSource):
    """Parquet files below the dataset's path, chosen by `source: parquet`."""

    source: Literal["parquet"]
    splits: SplitPlaces = Field(default_factory=dict)
    """Split (train, val, test) -> file, folder or pattern such as `data/train-*`; empty: all files,
    split by a hash of `group`."""

    @property
    def given_splits(self) -> list[str]:
        """The splits that the files come in."""
        return sorted(self.splits)

    @override
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        require_path(root)
        files = list(find_files(root, self.splits, matching(FILES)))
        missing = set(self.splits or {"": ""}) - {file.split for file in files}
        for split in sorted(missing):
            place = root / self.splits.get(split, "")
            raise DataError(
                f"{place.as_posix()}: no input files; expected {FILES} in it or in folders below, "
                "whose names begin with neither a dot nor an underscore"
            )
        self._check_columns([file.path for file in files])
        yield from files

    @override
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        has: frozenset[str] | None = None
        for file in files:
            has = self._check_columns([file.path]) if has is None else has  # as all have it
            chat = [name for name in self.chat.all_names if name in has] if self.chat else []
            yield from self._read_file(file, chat, root)

    def _check_columns(self, paths: Sequence[Path]) -> frozenset[str]:
        return check_schema(paths, self.required, self.optional, also=self.can_convert)

    def _read_file(
        self, file: FoundFile, chat: Sequence[str], root: Path
    ) -> Iterator[pa.RecordBatch]:
        with open_parquet(file.path) as opened:
            schema = opened.schema_arrow
        readers = self.make_readers(schema, root)
        names = dict.fromkeys([*(n for r in readers.values() for n in r.names), *chat])
        most = LIST_BATCH_ROWS if self.has_lists(schema) else BATCH_ROWS
        first = 0
        for batch in iter_batches(file.path, list(names), most):
            try:
                rows = RowPlaces(root, name_bytes(file.name), file.split, first, self.tally)
                yield from self.canonical(batch, readers, rows)
            except DataError as error:
                raise DataError(f"{file.path.as_posix()}: {error}") from None
            first += batch.num_rows

    @override
    def passes_over(self, name: str) -> str | None:
        # Where rows name files, a file that is no table is one of those.
        why = why_passed_over(name, self.splits, matching(FILES), f"not named {FILES}")
        return "" if why and self.media == "path" else why
