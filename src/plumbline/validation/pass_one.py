"""Pass one over all shards: in this process or in several, and each shard once.

What a shard comes to depends on its rows and the settings alone, so that neither the number of
processes nor what an earlier run had done makes a difference.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from plumbline.data.byte_columns import distinct_cells
from plumbline.data.parquet import iter_encoded_batches
from plumbline.errors import ConfigError, DataError
from plumbline.validation.features_check import find_other_widths
from plumbline.validation.judging import RowJudge
from plumbline.validation.memo import MediaMemo
from plumbline.validation.near import Prints
from plumbline.validation.notes import Notes
from plumbline.validation.rules import make_rules
from plumbline.validation.settings import ValidationConfig
from plumbline.validation.shards import Shard

WORKERS = "PLUMBLINE_WORKERS"
"""Names the number of processes, which changes no result and so is no setting."""
MEMO, NOTES = "media.sqlite", ".arrow"
SHARD_S = 1800.0
"""The longest wait for the next shard, which takes seconds, or minutes of the worst images."""
_SHARDS_A_WORKER = 4
"""Fewer are judged before the processes have come up."""


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

    def run(self, shards: Sequence[Shard], workers: int) -> Iterator[Path]:
        """Yield the file of each shard's notes, in order.

        Args:
            shards: of all files.
            workers: processes; 1 for this one alone.

        Raises:
            DataError: a file is damaged, or a process was ended or stopped from outside.
        """
        # Before others do: a file that is new or damaged is made by one process.
        MediaMemo(self.folder / MEMO).close()
        if workers == 1:
            yield from map(self.judge, shards)
            return
        # From a server of its own, since this process may have threads, which no copy has.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
            try:
                for shard in [pool.submit(self.judge, shard) for shard in shards]:
                    yield shard.result(SHARD_S)
            except BrokenProcessPool:
                raise DataError(
                    "a process that judged rows was ended from outside, as the system does where "
                    f"memory is short: run again, what is judged is kept; {WORKERS}=1 takes less"
                ) from None
            except TimeoutError:
                for process in multiprocessing.active_children():
                    process.kill()  # or its end would be waited for
                raise DataError(
                    f"no rows were judged for {SHARD_S:,.0f} s: has a process been stopped? run "
                    "again, what is judged is kept"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

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

    def _judge(self, shard: Shard) -> Notes:
        prints = Prints(self.config.leaks)
        rules = make_rules(self.config, self.columns, prints.look)
        with closing(MediaMemo(self.folder / MEMO)) as memo:
            judge = RowJudge(rules, memo, prints)
            for batch in iter_encoded_batches(
                shard.path, self.names, self.batch_rows, shard.groups
            ):
                judge.judge(batch)
        return judge.notes


def count_workers(shards: int) -> int:
    """How many processes judge so many shards: as many as pay, or as the environment says.

    Raises:
        ConfigError: the environment says no number.
    """
    given = os.environ.get(WORKERS)
    if given is not None and not (given.isdecimal() and int(given)):
        raise ConfigError(f"{WORKERS} = {given!r} is no number of processes: 1 or more")
    cores = len(os.sched_getaffinity(0))
    return max(1, min(int(given or cores), shards if given else shards // _SHARDS_A_WORKER))


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


def _begin() -> None:
    """Leave Ctrl-C to the process that waits for this one, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    wait([parent.sentinel])
    os._exit(1)
