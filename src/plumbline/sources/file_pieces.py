"""Sources that read file after file: runs of their files are pieces."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from typing_extensions import override

from plumbline.sources.base import Piece, Source
from plumbline.sources.files import FoundFile

PIECE_BYTES = 16 * 2**20
"""Of files, from which on a piece is full."""
PIECE_FILES = 512


class FileSource(Source):
    """A source whose rows are those of its files, one file after the other."""

    @abstractmethod
    def files_of(self, root: Path) -> Iterator[FoundFile]:
        """Find the files, in order.

        Args:
            root: the dataset's path.

        Raises:
            ConfigError: the path does not exist.
            DataError: the files are not what the settings say.
        """

    @abstractmethod
    def read_files(self, root: Path, files: Iterable[FoundFile]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some of the files."""

    @override
    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        yield from self.read_files(path, self.files_of(path))

    @override
    def pieces(self, path: Path) -> Iterator[Piece] | None:
        return gather_files(self.files_of(path))

    @override
    def read_piece(self, path: Path, piece: Piece) -> Iterator[pa.RecordBatch]:
        assert isinstance(piece, list), "as it was cut"
        yield from self.read_files(path, piece)


def gather_files(files: Iterable[FoundFile]) -> Iterator[list[FoundFile]]:
    """Put files that follow each other together, so that many small ones are few pieces."""
    run: list[FoundFile] = []
    size = 0
    for file in files:
        run.append(file)
        size += file.path.stat().st_size
        if size >= PIECE_BYTES or len(run) >= PIECE_FILES:
            yield run
            run, size = [], 0
    if run:
        yield run
