"""The engine of one machine: this process alone, or several that this one starts."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self, TypeVar

from plumbline.engines import base
from plumbline.engines.base import Work
from plumbline.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = "PLUMBLINE_WORKERS"
"""Names the number of processes, which changes no result and so is no setting."""
_ITEMS_A_WORKER = 4
"""Fewer are done before the processes have come up."""


class LocalEngine:
    """Computes items in this process, or in several where there are enough of them."""

    elsewhere = False

    def __init__(self, workers: int | None = None) -> None:
        """Use so many processes; 1: this one alone, None: as many as pay."""
        self._workers = workers

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], work: Work
    ) -> Iterator[Result]:
        """See `Engine`."""
        asked = self._workers is not None or WORKERS in os.environ
        if not (work.pays or asked):
            yield from map(function, items)
            return
        if isinstance(items, Sized):
            known, rest = len(items), iter(items)
        else:  # so many of them as decide on the number of processes
            items = iter(items)
            first = deque(_take_first(items, self._workers, work))
            known, rest = len(first), chain(_drain(first), items)
        workers = self._workers or count_workers(known)
        if workers == 1:
            yield from map(function, rest)
            return
        # From a server of its own, since this process may have threads, which no copy has.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([getattr(function, "__module__", None) or __name__])
        with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
            try:
                yield from _in_order(pool, function, rest, workers, work)
            except BrokenProcessPool:
                raise DataError(
                    f"a process that {work.done} {work.what} was ended from outside, as the system "
                    "does where memory is short: run again, what is kept is not done again; "
                    f"{WORKERS}=1 takes less"
                ) from None
            except TimeoutError:
                for process in multiprocessing.active_children():
                    process.kill()  # or its end would be waited for
                raise DataError(
                    f"no {work.what} were {work.done} for {base.ITEM_S:,.0f} s: has a process been "
                    "stopped? run again, what is kept is not done again"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Return the engine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held between two calls of `map`."""


def _in_order(
    pool: ProcessPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterator[Item],
    workers: int,
    work: Work,
) -> Iterator[Result]:
    ahead: deque[tuple[Future[Result], int]] = deque()
    held = 0
    for item in items:
        size = work.weigh(item)
        while len(ahead) >= workers and held + size > base.AHEAD_BYTES:
            held -= ahead[0][1]
            yield ahead.popleft()[0].result(base.ITEM_S)
        ahead.append((pool.submit(function, item), size))
        held += size
        if len(ahead) >= _ITEMS_A_WORKER * workers:
            held -= ahead[0][1]
            yield ahead.popleft()[0].result(base.ITEM_S)
    while ahead:
        yield ahead.popleft()[0].result(base.ITEM_S)


def _take_first(items: Iterator[Item], workers: int | None, work: Work) -> Iterator[Item]:
    """Take so many items that they decide on the number of processes, and not much memory."""
    most = _ITEMS_A_WORKER * (workers or count_cores())
    enough, held = workers or count_workers(most), 0
    for number, item in enumerate(islice(items, most), 1):
        yield item
        held += work.weigh(item)
        if number >= enough and held > base.AHEAD_BYTES:
            return


def _drain(items: deque[Item]) -> Iterator[Item]:
    while items:
        yield items.popleft()


def count_cores() -> int:
    """Cores that this process may use: taskset and containers leave it fewer than there are."""
    return len(os.sched_getaffinity(0))


def count_workers(items: int) -> int:
    """How many processes do so many items: as many as pay, or as the environment says.

    Raises:
        ConfigError: the environment says no number.
    """
    given = os.environ.get(WORKERS)
    if given is not None and not (given.isdecimal() and int(given)):
        raise ConfigError(f"{WORKERS} = {given!r} is no number of processes: 1 or more")
    most = items if given else items // _ITEMS_A_WORKER
    return max(1, min(int(given or count_cores()), most))


def _begin() -> None:
    """Leave Ctrl-C to the process that waits for this one, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    wait([parent.sentinel])
    os._exit(1)
