"""A raw table on its way through both passes of validation, shard by shard."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

import pyarrow as pa

from plumbline.data.parquet import declared_splits, iter_encoded_batches
from plumbline.engines.base import Engine
from plumbline.errors import DataError
from plumbline.tracking.progress import tracked
from plumbline.validation.filed import mark_shard
from plumbline.validation.filing import RowFiler
from plumbline.validation.judging import check_parts
from plumbline.validation.kept import forget_others
from plumbline.validation.near import NearRows
from plumbline.validation.notes import Notes
from plumbline.validation.pass_one import PassOne
from plumbline.validation.shards import Shard, cut_shards
from plumbline.validation.verdicts import Verdicts


class RawTable:
    """A raw table on its way through both passes, shard by shard."""

    def __init__(self, paths: Sequence[Path], folder: Path, texts: Sequence[str]) -> None:
        """Cut its files into shards.

        Args:
            paths: the files, in order.
            folder: private, for what outgrows memory.
            texts: columns of texts whose cells are compared between splits.

        Raises:
            DataError: a file is missing or damaged.
        """
        self._shards = [shard for path in paths for shard in cut_shards(path)]
        self._files: list[Path] = []
        """Notes of each shard."""
        self._given = declared_splits(paths)
        rows = Counter({path.name: 0 for path in paths})
        for shard in self._shards:
            rows[shard.path.name] += shard.rows
        ends = accumulate(rows.values())
        self.starts = {name: end - rows[name] for name, end in zip(rows, ends, strict=True)}
        """The number of each file's first row."""
        self.verdicts = Verdicts(folder, rows.total(), texts)
        self.has_parts = False
        """Whether rows name parts, once they have been judged."""

    def judge(self, judging: PassOne, engine: Engine, near: NearRows) -> Notes:
        """Run pass one; what it noted of all rows together, and files of splits."""
        files = judging.run(self._shards, engine)
        pairs = zip(self._shards, files, strict=True)
        seen, start = Notes(pa.table({}), splits=set(self._given)), 0
        rows = self.verdicts.rows
        for shard, file in tracked(pairs, "judging", rows, "rows", lambda pair: pair[0].rows):
            notes = _read(shard, file)
            self.verdicts.add(notes.rows)
            near.add(notes.rows, start)
            seen.splits |= notes.splits
            seen.parts |= notes.parts
            seen.lines |= notes.lines
            check_parts(seen.parts)
            self._files.append(file)
            start += shard.rows
        self.has_parts = bool(seen.parts)
        near.remember(judging.image_prints())
        forget_others(self._files, judging.folder)
        return seen

    def marks(self) -> list[str]:
        """What stands for each shard and all that has been decided of its rows."""
        return [
            mark_shard(notes, shard.path.name, row, self.verdicts.slice(start, start + shard.rows))
            for shard, notes, start, row in self._places()
        ]

    def _places(self) -> Iterator[tuple[Shard, Path, int, int]]:
        """Each shard with its notes, the number of its first row, and the place of that."""
        start = 0
        for shard, notes in zip(self._shards, self._files, strict=True):
            yield shard, notes, start, start - self.starts[shard.path.name]
            start += shard.rows

    def file(self, names: Sequence[str], filer: RowFiler, batch_rows: int, done: int) -> None:
        """Run pass two over all shards but the first, which are `done`."""
        left = islice(self._places(), done, None)
        rows = sum(shard.rows for shard in self._shards[done:])
        for shard, file, start, row in tracked(
            left, "filing", rows, "rows", lambda place: place[0].rows
        ):
            notes, at = _read(shard, file).rows, 0
            for batch in iter_encoded_batches(shard.path, names, batch_rows, shard.groups):
                stop = at + batch.num_rows
                decided = self.verdicts.slice(start + at, start + stop)
                noted = notes.slice(at, batch.num_rows)
                filer.file_rows(shard.path.name, row + at, batch, noted, decided)
                at = stop


def _read(shard: Shard, file: Path) -> Notes:
    notes = Notes.read(file)
    if notes is None or len(notes.rows) != shard.rows:
        raise DataError(f"{shard.path}: changed while it was validated; run again")
    return notes
