"""Encoded media of a cache, end to end in shards: files of about one size, read piece by piece.

<column>.places.bin   int64 [media + 1]: where each begins, in bytes from the first of all
<column>.00000.shard  media one behind the other; none lies across two shards
"""

import mmap
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import CheckpointError

SUFFIX = ".shard"
_OPEN = 32
"""Shards of which a reader keeps the map; each is a file that is open."""


def shard_name(column: str, shard: int) -> str:
    """File of a shard."""
    return f"{column}.{shard:05}{SUFFIX}"


def places_name(column: str) -> str:
    """File with the place of each medium."""
    return f"{column}.places.bin"


class ShardWriter:
    """Writes the media of a column, in the order of their numbers."""

    def __init__(
        self,
        folder: Path,
        column: str,
        shard_bytes: float,
        files: ExitStack,
        put: Callable[[Path], str] | None = None,
    ) -> None:
        """Write into a folder.

        Args:
            folder: of the cache.
            column: what the files are called.
            shard_bytes: a shard is full where the next medium would make it larger.
            files: closes what is opened.
            put: keeps a shard that is full elsewhere and gives its name there; None: it stays.
        """
        self._folder, self._column, self._limit = folder, column, shard_bytes
        self._files, self._put = files, put
        self._places = files.enter_context((folder / places_name(column)).open("wb"))
        self._places.write(np.int64(0).tobytes())
        self._shard: BinaryIO | None = None
        self._end = self._begin = self._count = 0
        self.starts: list[int] = []
        """[shards] the number of the first medium of each."""
        self.names: list[str] = []
        """[shards] what each is called elsewhere; none where they stay."""

    def append(self, data: bytes) -> None:
        """Write the next medium."""
        if self._shard is None or self._end - self._begin + len(data) > self._limit:
            self._next_shard()
        assert self._shard is not None
        self._shard.write(data)
        self._end += len(data)
        self._count += 1
        self._places.write(np.int64(self._end).tobytes())

    def finish(self) -> None:
        """Close the last shard, and keep it where the others are."""
        if self._shard is None:
            return
        self._shard.close()
        self._shard = None
        if self._put is not None:
            # One at a time: the disk need not hold them all.
            path = self._folder / shard_name(self._column, len(self.starts) - 1)
            self.names.append(self._put(path))
            path.unlink()

    def _next_shard(self) -> None:
        self.finish()
        path = self._folder / shard_name(self._column, len(self.starts))
        self._shard = self._files.enter_context(path.open("wb"))
        self.starts.append(self._count)
        self._begin = self._end


class ShardReader:
    """Reads the media of a column by number; processes that are forked from this one may go on."""

    def __init__(
        self,
        folder: Path,
        column: str,
        starts: list[int],
        bring: Callable[[int], Path] | None = None,
    ) -> None:
        """Open the shards of a cache.

        Args:
            folder: of the cache.
            column: what the files are called.
            starts: [shards] the number of the first medium of each.
            bring: the file of a shard that lies elsewhere; None: they lie in the folder.

        Raises:
            CheckpointError: the file of places is missing.
        """
        self._folder, self._column, self.bring = folder, column, bring
        self._starts = np.array(starts, np.int64)
        try:
            self._places = np.fromfile(folder / places_name(column), np.int64)
        except OSError:
            raise _missing(folder / places_name(column)) from None
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __len__(self) -> int:
        """Number of media."""
        return len(self._places) - 1

    def shards_of(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """The shard that each of some media lies in: [media]."""
        return np.searchsorted(self._starts, numbers, "right") - 1

    def read(self, number: int) -> bytes:
        """The bytes of a medium.

        Raises:
            CheckpointError: its shard is missing or cut short.
        """
        shard = int(np.searchsorted(self._starts, number, "right")) - 1
        begin, end = (
            self._places[number : number + 2] - self._places[self._starts[shard]]
        ).tolist()
        data = self._map(shard)[begin:end]
        if len(data) < end - begin:
            raise _missing(self._path(shard))
        return data

    def _path(self, shard: int) -> Path:
        if self.bring is not None:
            return self.bring(shard)
        return self._folder / shard_name(self._column, shard)

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            self._maps[shard] = self._open(shard)
            if len(self._maps) > _OPEN:
                self._maps.popitem(last=False)[1].close()
        self._maps.move_to_end(shard)
        return self._maps[shard]

    def _open(self, shard: int) -> mmap.mmap:
        while True:
            path = self._path(shard)
            try:
                with path.open("rb") as file:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                if self.bring is None:
                    raise _missing(path) from None
                # Whoever made room on the disk has taken it: it comes once more.
            except (OSError, ValueError):  # an empty file has no map
                raise _missing(path) from None


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: missing or cut short; run dvc repro")
