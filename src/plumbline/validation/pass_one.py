"""Pass one over all shards: each shard once, by whatever engine.

What a shard comes to depends on its rows and the settings alone, so that neither where it is judged
nor what an earlier run had done makes a difference.
"""

import atexit
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from plumbline.data.byte_columns import distinct_cells
from plumbline.data.parquet import iter_encoded_batches
from plumbline.engines.base import Engine, Work
from plumbline.files import atomic_write
from plumbline.scratch import scratch_folder
from plumbline.validation.features_check import find_other_widths
from plumbline.validation.judging import RowJudge
from plumbline.validation.memo import JudgedMedium, MediaMemo
from plumbline.validation.near import Prints
from plumbline.validation.notes import Notes
from plumbline.validation.rules import make_rules
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.shards import Shard

MEMO, NOTES = "media.sqlite", ".arrow"
JUDGING = Work("judged", "rows")


@dataclass(frozen=True)
class PassOne:
    """How the rows of a table are judged."""

    names: Sequence[str]
    """Columns to read."""
    columns: Sequence[str]
    """Content columns, in canonical order."""
    config: ValidationConfig
    """With the number of channels, where there are features."""
    folder: Path
    """An existing folder for the notes of shards and what is known of media."""
    batch_rows: int

    def run(self, shards: Sequence[Shard], engine: Engine) -> Iterator[Path]:
        """Yield the file of each shard's notes, in order.

        Args:
            shards: of all files.
            engine: where they are judged.

        Raises:
            DataError: a file is damaged, or what judged it was ended or stopped from outside.
        """
        # Before others do: a file that is new or damaged is made by one process.
        MediaMemo(self.folder / MEMO).connect().close()
        if not engine.elsewhere:
            yield from engine.map(self.judge, shards, JUDGING)
            return
        known = {path.name for path in self.folder.glob(f"*{NOTES}") if Notes.is_whole(path)}
        judge = partial(judge_elsewhere, self, frozenset(known))
        for judged in engine.map(judge, shards, JUDGING):
            yield self._keep(judged)

    def _keep(self, judged: "Judged") -> Path:
        """Keep what another machine has found out of a shard."""
        path = self.folder / judged.file
        if judged.notes is not None:
            # Before the notes, without which the shard would be judged anew.
            with closing(MediaMemo(self.folder / MEMO)) as memo:
                for digest, medium in judged.media:
                    memo.add(digest, medium)
                memo.save()
            atomic_write(path, judged.notes, durable=False)
        return path

    def judge(self, shard: Shard) -> Path:
        """Judge a shard, if it has not been judged before; the file of its notes.

        Raises:
            DataError: the file is damaged.
        """
        path = self.folder / f"{shard.digest(self.names)}{NOTES}"
        if not Notes.is_whole(path):
            self._judge(shard).write(path)
        return path

    def image_prints(self) -> Iterator[tuple[bytes, bytes]]:
        """What near duplicates of images are found by: (digest of the medium, value)."""
        if self.config.leaks.near_images:
            with closing(MediaMemo(self.folder / MEMO)) as memo:
                yield from memo.prints()

    def _open_memo(self) -> MediaMemo:
        return MediaMemo(self.folder / MEMO)

    def _judge(self, shard: Shard) -> Notes:
        prints = Prints(self.config.leaks)
        rules = make_rules(self.config, self.columns, prints.look)
        with closing(self._open_memo()) as memo:
            judge = RowJudge(rules, memo, prints)
            for batch in iter_encoded_batches(
                shard.path, self.names, self.batch_rows, shard.groups
            ):
                judge.judge(batch)
        return judge.notes


class Judged(NamedTuple):
    """What another machine has found out of a shard."""

    file: str
    """Name of the file of its notes."""
    notes: bytes | None
    """What that holds; None where the run that asks has it."""
    media: list[tuple[bytes, JudgedMedium]]
    """What had to be looked at for it, by digest."""


@dataclass(frozen=True)
class _Elsewhere(PassOne):
    """Pass one in a process of another machine, with a folder of that machine."""

    met: list[tuple[bytes, JudgedMedium]] = field(default_factory=list)

    def _open_memo(self) -> MediaMemo:
        return _TellingMemo(self.folder / MEMO, self.met)


class _TellingMemo(MediaMemo):
    """A memo that tells what is added to it."""

    def __init__(self, path: Path, met: list[tuple[bytes, JudgedMedium]]) -> None:
        super().__init__(path)
        self._met = met

    def add(self, digest: bytes, judged: JudgedMedium) -> None:
        self._met.append((digest, judged))
        super().add(digest, judged)


def judge_elsewhere(asked: PassOne, known: frozenset[str], shard: Shard) -> Judged:
    """Judge a shard on a machine that shares no lock with the one that asks.

    SQLite's write-ahead log works on one machine alone, so each process has a memo of its own.

    Args:
        asked: how rows are judged; its folder stays untouched.
        known: names of the files of notes that need not be made.
        shard: what is judged.

    Raises:
        DataError: the file is damaged.
    """
    file = f"{shard.digest(asked.names)}{NOTES}"
    if file in known:
        return Judged(file, None, [])
    # Its name tells rules and code: what is known of media by others is nothing to these.
    folder = _own_folder() / asked.folder.name
    folder.mkdir(exist_ok=True)
    here = _Elsewhere(*(asked.names, asked.columns, asked.config, folder, asked.batch_rows))
    path = here.judge(shard)
    notes = path.read_bytes()
    path.unlink()
    return Judged(file, notes, here.met)


@lru_cache(maxsize=1)
def _own_folder() -> Path:
    """A folder of this process alone; the next one removes it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch_folder())


def with_channels(
    paths: Sequence[Path], config: ValidationConfig, columns: Sequence[str], batch_rows: int
) -> ValidationConfig:
    """Settings with the channels that features must have: those of the first row with good ones.

    As they are where that is set, or there are no features.

    Raises:
        DataError: a file is damaged.
    """
    if config.channels or "features" not in columns:
        return config
    rules = make_rules(config, columns).of("features")
    for path in paths:
        for batch in iter_encoded_batches(path, ["features"], batch_rows):
            cells = distinct_cells(batch.column("features"))
            values = (
                cells.value(at) if length <= rules.max_bytes else None
                for at, length in enumerate(cells.lengths.tolist())
            )
            good = [None if v is None or rules.check(v) else v for v in values]
            _, channels = find_other_widths(good, cells.row_value.tolist(), None)
            if channels is not None:
                return config.model_copy(update={"channels": channels})
    return config
