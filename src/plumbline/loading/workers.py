"""What a pool of loader processes is made of: how they are started, watched and ended.

What goes wrong in them is said in one line.

Three things can leave a training waiting for them: one dies, one cannot hand over its batch, or all
of them stand still. torch notices the first alone.
"""

import ctypes
import errno
import logging
import mmap
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.keys import Keys, SampleKey
from plumbline.waiting import STOPPING

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Given = TypeVar("Given", covariant=True)

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  where torch puts the tensors of a batch
MAX_SOCKET_PATH = 107
"""Bytes that the address of a Unix socket has room for."""
PREFETCH = 2
"""Batches that each process makes ahead: torch's default."""
_END_S = 2.0
"""How long loader processes whose batches are not wanted any more may take to end."""
_PR_SET_PDEATHSIG = 1
_DEATH = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed|exited)[^.]*")
_GOES_ON = "then run again: the training goes on from its last state"


class LoaderError(TrainingError):
    """The loader processes give no batch; the training itself stands between two steps."""

    names_cause = True  # a full /dev/shm is no full disk


def refuse_dead_worker(error: BaseException) -> None:
    """Raise if an error says that a loader process died, which is no fault of the batch at hand.

    torch learns of it from a signal, so its `RuntimeError` comes up wherever the main thread is: in
    the wait for a batch as well as in a loss, an optimiser step or a checkpoint.

    Raises:
        TrainingError: names the process and what ended it.
    """
    if isinstance(error, RuntimeError) and (death := _DEATH.search(str(error))):
        raise TrainingError(
            f"loader: {death[0]}; where memory is short lower loader.workers or loader.cache_mb "
            f"(0 workers need least), {_GOES_ON}"
        ) from error


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Turn the death of a loader process within the block into `refuse_dead_worker`'s error."""
    try:
        yield
    except RuntimeError as error:
        refuse_dead_worker(error)
        raise


@dataclass(frozen=True)
class Undelivered:
    """Comes in place of a batch that its process could not hand over."""

    reason: str


class _Queue(multiprocessing.queues.Queue):  # type: ignore[type-arg]
    """A queue whose sender says so when it cannot send, instead of keeping it to itself."""

    def _on_queue_feeder_error(self, error: Exception, item: object) -> None:
        """Called in the thread that sends; `item` is the number of a batch and the batch."""
        if isinstance(item, tuple) and len(item) == 2:
            self.put((item[0], Undelivered(f"{type(error).__name__}: {error}")))


class Fork(ForkContext):
    """Starts processes by `fork`, with queues that say what they cannot send."""

    @override
    def Queue(self, maxsize: int = 0) -> _Queue:
        return _Queue(maxsize, ctx=self.get_context())


class Gathering(Protocol[Given]):
    """Samples by key, of which some can be had at once."""

    def __getitem__(self, key: SampleKey) -> Given:
        """The sample of a key."""
        ...

    def read_together(self, keys: Keys) -> Sequence[Given] | None:
        """The samples of some keys; None where they come one by one."""
        ...


class Watched(Dataset[Item]):
    """A dataset that counts for each process how often it was read, where the others see it."""

    def __init__(self, dataset: Gathering[Item], workers: int) -> None:
        self._dataset = dataset
        # Anonymous memory, shared by the fork: neither a file nor a descriptor.
        self._memory = mmap.mmap(-1, 8 * workers)
        self._beats = np.frombuffer(self._memory, np.int64)

    def __getitem__(self, key: SampleKey) -> Item:
        sample = self._dataset[key]
        self._beat()
        return sample

    def __getitems__(self, keys: Keys) -> Sequence[Item]:
        """What torch asks for where it can: the samples of a batch."""
        together = self._dataset.read_together(keys)
        if together is None:
            return [self[key] for key in keys]
        self._beat()
        return together

    def _beat(self) -> None:
        worker = get_worker_info()
        assert worker is not None
        self._beats[worker.id] += 1

    def beats(self) -> int:
        """How often it was read, by all processes."""
        return int(self._beats.sum())


class Watch:
    """Ends loader processes of which none has read a sample for too long while one waits for them.

    Their death is a signal to the waiting process, which gets it out of any wait.
    """

    def __init__(
        self, beats: Callable[[], int], processes: Sequence[BaseProcess], limit_s: float
    ) -> None:
        self._beats, self._processes, self._limit_s = beats, processes, limit_s
        self._waits = False
        self._over = threading.Event()
        self.stalled = False
        self._thread = threading.Thread(target=self._run, name="loader-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which somebody waits for the processes."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _run(self) -> None:
        look_s = min(1.0, self._limit_s / 4)
        seen, idle_s, last = -1, 0.0, time.monotonic()
        while not self._over.wait(look_s):
            now, beats = time.monotonic(), self._beats()
            # Of a time in which this process was stopped too, no more than a look counts.
            idle_s = idle_s + min(now - last, 2 * look_s) if beats == seen else 0.0
            if not self._waits:
                idle_s = 0.0
            seen, last = beats, now
            if idle_s >= self._limit_s:
                self.stalled = True
                self.kill()
                return

    def kill(self) -> None:
        """End the processes at once."""
        for process in self._processes:
            process.kill()

    def end(self, iterator: _MultiProcessingDataLoaderIter, *, emptied: bool) -> None:
        """End the processes: those that do not answer within a moment are killed.

        Where not all batches were taken none is asked, and torch's queues are closed beside the
        training: an error in the middle of a wait, such as a signal's, may have left a lock of
        theirs held, on which the question would wait.
        """
        self._over.set()
        self._thread.join()
        forget_processes(iterator)
        if not emptied:
            self.kill()
            closing = threading.Thread(target=iterator._shutdown_workers, daemon=True)
            closing.start()
            closing.join(_END_S)
            return
        killer = threading.Timer(_END_S, self.kill)
        killer.daemon = True
        killer.start()
        try:
            iterator._shutdown_workers()
        except RuntimeError as error:  # the signal of a death; the rest has been done
            logger.debug("while ending loader processes: %s", error)
        finally:
            killer.cancel()
            self.kill()


def enter_worker(number: int) -> None:
    """Make a loader process one that only its parent ends, and that never outlives it.

    A signal to the whole group, as of a terminal or a job's end, is for the training: it saves its
    state first.
    """
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def folder_for_sockets() -> str | None:
    """`/tmp` where `$TMPDIR` is too long for the address of a socket; None: `$TMPDIR` will do."""
    needed = len(os.fsencode(tempfile.gettempdir())) + len("/plumbline-12345678/listener-12345678")
    return "/tmp" if needed > MAX_SOCKET_PATH else None  # noqa: S108  (a private folder in it)


def start_processes(
    loader: DataLoader[Item], sockets: Path
) -> tuple[_MultiProcessingDataLoaderIter, list[BaseProcess]]:
    """Fork the processes of a loader, with a folder for the sockets over which they hand batches.

    Their own would stay where the training is killed.
    """
    config: dict[str, object] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = multiprocessing.active_children()
    outer = config.pop("tempdir", None)
    config["tempdir"] = str(sockets)
    # What `iter(loader)` makes, known before it starts a process: a signal may come at any moment.
    iterator = _MultiProcessingDataLoaderIter.__new__(_MultiProcessingDataLoaderIter)
    try:
        with _signals_later():
            _MultiProcessingDataLoaderIter.__init__(iterator, loader)
    except BaseException:
        forget_processes(iterator)
        iterator._shutdown = True  # nothing is left to do for its end
        for begun in _children_beside(before):
            begun.kill()
            begun.join(_END_S)
        raise
    finally:
        config.pop("tempdir")
        if outer is not None:
            config["tempdir"] = outer
    return iterator, _children_beside(before)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Let what asks to stop come behind the block.

    Between a fork and its entry in the list of children, an error leaves a process that nobody
    ends. A mask would not do: another thread takes the signal, and its handler runs here.
    """
    noted = set[int]()
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # no other has handlers
        handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, lambda number, frame: noted.add(number))
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        for noted_number in noted:
            signal.raise_signal(noted_number)


def forget_processes(iterator: _MultiProcessingDataLoaderIter) -> None:
    """Take the processes off torch's list of those whose death is an error.

    It would raise for one that is killed on purpose, at once or at the next death of any child: the
    list outlives an error that comes while torch itself ends them.
    """
    with suppress(ValueError):  # they were not on it yet
        torch._C._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False


def _children_beside(others: Sequence[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


@contextmanager
def naming_stalls(watch: Watch, workers: int, timeout_s: float) -> Iterator[None]:
    """A block that waits for processes: it ends with one line where all of them stand still."""
    try:
        with watch.waiting():
            yield
    except (RuntimeError, OSError, EOFError) as error:
        if watch.stalled:
            raise LoaderError(
                f"loader: none of the {workers} loader processes has read a sample for "
                f"{timeout_s:g} s (loader.timeout_s); look at the disk or the network that the "
                f"data comes from, or raise it, {_GOES_ON}"
            ) from error
        raise


def delivered(batch: Batch | Undelivered, workers: int) -> Batch:
    """What a process has handed over.

    Raises:
        LoaderError: it could not.
    """
    if isinstance(batch, Undelivered):
        raise LoaderError(_undelivered(batch.reason, workers))
    return batch


def _undelivered(reason: str, workers: int) -> str:
    if os.strerror(errno.EMFILE) in reason:
        return _too_many_files(workers)
    if any(words in reason for words in ("No space left", "shared memory", "allocate memory")):
        remedy = (
            f"give {_SHARED_MEMORY} more room (docker run --shm-size), or lower loader.workers (0 "
            "workers need none of it)"
        )
    else:
        remedy = "lower loader.workers (0 workers hand over nothing)"
    return (
        f"loader.workers = {workers}: a loader process cannot hand over its batch "
        f"({' '.join(reason.split())[:200]}); {remedy}, {_GOES_ON}"
    )


def _too_many_files(workers: int) -> str:
    return (
        f"loader.workers = {workers}: too many open files; raise the limit (ulimit -n 4096) or "
        f"lower loader.workers, {_GOES_ON}"
    )


@contextmanager
def naming_limits(workers: int) -> Iterator[None]:
    """Say in one line which limit of the system ends the talk with the loader processes."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Their locks lie in shared memory as well as the batches.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise LoaderError(_undelivered(str(error), workers)) from error
        full = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        if full or re.search("[Tt]oo many open files|items of ancdata", str(error)):
            raise LoaderError(_too_many_files(workers)) from error
        raise
