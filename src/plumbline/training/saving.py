"""When and how the state of a training is saved, and how a run goes on from it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plumbline.errors import PlumblineError
from plumbline.loading.workers import LoaderError
from plumbline.training.background_writer import BackgroundWriter
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import CheckpointConfig
from plumbline.training.engine import Engine
from plumbline.training.host_copy import HostCopy
from plumbline.training.processes import Processes
from plumbline.training.progress import Progress
from plumbline.training.signals import StopRequest, WaitInterrupted

logger = logging.getLogger(__name__)


@dataclass
class Saving:
    """The saved states of one training: all that its end depends on, or it could not resume.

    The loop waits for copies of the tensors alone, which are written beside it.
    """

    store: CheckpointStore
    engine: Engine
    scaler: torch.GradScaler
    progress: Progress
    processes: Processes
    config: CheckpointConfig
    _weights: HostCopy = field(default_factory=HostCopy, init=False)
    _moments: HostCopy = field(default_factory=HostCopy, init=False)
    _writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    _saved_s: float = field(default_factory=time.monotonic, init=False)

    def resume(self) -> None:
        """Go on from the newest state of this very run, if there is one.

        Raises:
            CheckpointError: it is damaged.
        """
        latest = self.store.latest()
        if latest is None:
            if self.processes.is_main and (other := self.store.nearest_other()):
                logger.info("starting anew: %s", other)
            return
        state, history = self.store.read(latest)
        self.engine.load(latest)
        self.progress.load(state, history)
        self.scaler.load_state_dict(state.scaler)
        logger.info("resuming after optimiser step %d", self.progress.clock.global_step)

    def save(self, epoch_ended: int = 0) -> None:
        """Begin to save the whole state, at the boundary of an optimiser step.

        Args:
            epoch_ended: number of the epoch that just ended; 0 within an epoch.
        """
        self._copy(self._weights, self.engine.weights)
        self._copy(self._moments, self.engine.moments)
        self._saved_s = time.monotonic()
        if not self.processes.is_main:
            return
        state = self.progress.state(self.store.fingerprint, self.scaler.state_dict())
        rows = self.store.history.take(self.progress.history)

        def write() -> None:
            weights, moments = self._weights.read(), self._moments.read()
            self.store.save(weights, moments, state, rows, epoch_ended)

        self._writer.begin(write)

    def save_best(self) -> None:
        """Begin to keep the weights as they are now as the best ones.

        They are written before any later state, which counts on them.
        """
        self._copy(self._weights, self.engine.weights)
        best = self.progress.best.state()
        if self.processes.is_main:
            self._writer.begin(lambda: self.store.save_best(self._weights.read(), best))

    def within_epoch(self, stop: StopRequest) -> None:
        """After a step: save where that is due, or where the process is to stop, and then stop."""
        self._writer.check()
        # Asked first and always: several processes answer each other at the same moments.
        if stop.requested() or self._is_due():
            self.save()
        stop.leave()

    def presses(self) -> bool:
        """Whether a state is due by the clock, or one could not be written."""
        return self._writer.failed or self._is_late()

    def _is_due(self) -> bool:
        every = self.config.every_steps
        by_steps = every is not None and self.progress.clock.global_step % every == 0
        return by_steps or self._is_late()

    def _is_late(self) -> bool:
        minutes = self.config.every_minutes
        if minutes is None:
            return False
        # The clock of the main process alone decides: all copy their parts at the same step.
        late = time.monotonic() - self._saved_s >= 60 * minutes
        return self.processes.sum([late and self.processes.is_main])[0] > 0

    def finish(self) -> None:
        """Wait until all that was begun to be saved is written; every process waits."""
        self.processes.from_main(self._writer.wait)

    @contextmanager
    def to_the_end(self, stop: StopRequest) -> Iterator[None]:
        """A block that ends, however it does, when all that was begun to be saved is written.

        Where no batch comes, the state is saved first.
        """
        try:
            with self._where_data_fails(stop):
                yield
        except SystemExit:  # after a signal, on which all processes agreed
            self.finish()
            raise
        except BaseException:
            self._leave_written()
            raise
        self.finish()
        stop.obey()  # a signal may have come while it was written

    def _leave_written(self) -> None:
        """Wait for what is being written, behind an error that is the one to be raised."""
        try:
            self._writer.wait()
        except PlumblineError as error:
            logger.error("%s", error)

    @contextmanager
    def _where_data_fails(self, stop: StopRequest) -> Iterator[None]:
        """Save the state where no batch comes: the clock stands at the boundary of a step."""
        try:
            yield
        except WaitInterrupted:
            self.save()
            stop.obey()
        except LoaderError:
            # Of several processes the others may be at another step: there is no whole state.
            if self.processes.count == 1:
                self.save()
            raise

    def _copy(self, copy: HostCopy, tensors: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
        """Copy tensors as they are now, unless that was done since the last batch."""
        now = self.progress.clock.micro_step
        if copy.at != now:  # weights that are the best so far are those of the state, too
            self._writer.wait()  # it reads what is overwritten here
            copy.take(self._gathered(tensors()), at=now)

    def _gathered(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors for the main process to copy; the others help where they hold parts."""
        if not (self.processes.is_main or self.processes.sharded):
            return
        with self.processes.lockstep():
            for named in tensors:
                if self.processes.is_main:
                    yield named
