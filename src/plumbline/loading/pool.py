"""Loader processes that serve one epoch after the other."""

import atexit
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from plumbline.batch import Batch
from plumbline.loading.keys import Keys
from plumbline.loading.workers import (
    PREFETCH,
    Fork,
    Gathering,
    Watch,
    Watched,
    delivered,
    enter_worker,
    folder_for_sockets,
    forget_processes,
    naming_limits,
    naming_stalls,
    start_processes,
)
from plumbline.scratch import scratch_folder

Item = TypeVar("Item")


class WorkerPool:
    """Loader processes that make the batches of one list of keys after the other.

    They are started by the first one, and live until the pool is closed, or until it fails.
    """

    def __init__(
        self,
        dataset: Gathering[Item],
        collate: Callable[[Sequence[Item]], Batch],
        *,
        workers: int,
        timeout_s: float,
    ) -> None:
        """Say what the processes are to do; none is started yet."""
        self._workers, self._timeout_s = workers, timeout_s
        self._watched = Watched(dataset, workers)
        self._keys: list[Keys] = []
        self._serves: Sequence[Keys] = self._keys
        self._loader = DataLoader(
            self._watched,
            # Filled anew for each list, and handed on as they are, whatever torch calls them.
            batch_sampler=self._keys,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=PREFETCH,
            collate_fn=collate,
            persistent_workers=True,
            # Its base seed would otherwise be drawn from the global generator, step by step.
            generator=torch.Generator().manual_seed(0),
            multiprocessing_context=Fork(),
            worker_init_fn=enter_worker,
        )
        self._running: _Running | None = None

    def batches(self, keys: Sequence[Keys]) -> Generator[Batch]:
        """The batches of `keys` in their order.

        What was left of a list before is thrown away; nobody may take batches of it any more.

        Raises:
            LoaderError: a batch cannot be handed over, or no process has read a sample for
                `timeout_s` seconds while the training waited.
        """
        if not keys:
            return
        with naming_limits(self._workers):
            running = self._begin(keys)
            # In the order of `keys`: torch puts back in order what processes finish out of turn.
            for left in reversed(range(len(keys))):
                assert self._serves is keys, "batches of two lists were asked for at once"
                with self._waiting_for(running):
                    made = delivered(next(running.iterator), self._workers)
                running.emptied = not left
                yield made

    def _begin(self, keys: Sequence[Keys]) -> "_Running":
        """Have the processes begin with a list."""
        self._serves, self._keys[:] = keys, keys
        if self._running is None:
            self._running = _Running(self._loader, self._watched, self._timeout_s)
        else:
            self._running.emptied = False
            with self._waiting_for(self._running):
                # Until the processes are done with what they were asked for before.
                self._running.iterator._reset(self._loader)
        return self._running

    @contextmanager
    def _waiting_for(self, running: "_Running") -> Iterator[None]:
        try:
            with naming_stalls(running.watch, self._workers, self._timeout_s):
                yield
        except BaseException:  # an interrupted wait may have left a lock of the processes held
            self.close()
            raise

    def close(self) -> None:
        """End the processes, if there are any."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _Running:
    """The processes of a pool, with what they need while they live."""

    def __init__(self, loader: DataLoader[Item], watched: Watched[Item], timeout_s: float) -> None:
        self.emptied = False
        """Whether every batch that they were asked for was taken."""
        with ExitStack() as stack:
            sockets = stack.enter_context(scratch_folder(folder_for_sockets()))
            self.iterator, processes = start_processes(loader, sockets)
            self.watch = Watch(watched.beats, processes, timeout_s)
            self._kept = stack.pop_all()
        # A process that ends with batches open would ask them by a signal that they leave alone.
        atexit.register(self._abandon)

    def _abandon(self) -> None:
        forget_processes(self.iterator)
        self.watch.kill()

    def end(self) -> None:
        """End the processes, and take away the folder of their sockets."""
        atexit.unregister(self._abandon)
        with self._kept:
            self.watch.end(self.iterator, emptied=self.emptied)
