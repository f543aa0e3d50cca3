"""When and how the state of a training is saved, and how a run goes on from it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plumbline.loading.workers import LoaderError
from plumbline.models.weights import plain_tensors
from plumbline.training.checkpoint import CheckpointStore, optimizer_tensors
from plumbline.training.processes import Processes
from plumbline.training.progress import Progress
from plumbline.training.signals import StopRequest, WaitInterrupted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saving:
    """The saved states of one training: all that its end depends on, or it could not resume."""

    store: CheckpointStore
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.GradScaler
    progress: Progress
    processes: Processes
    every_steps: int | None
    """Optimiser steps between saves within an epoch."""

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
        state = self.store.restore(latest, self.model, self.optimizer)
        self.progress.load(state)
        self.scaler.load_state_dict(state.scaler)
        logger.info("resuming after optimiser step %d", self.progress.clock.global_step)

    def save(self, epoch_ended: int = 0) -> None:
        """Save the whole state, at the boundary of an optimiser step.

        Args:
            epoch_ended: number of the epoch that just ended; 0 within an epoch.
        """
        state = self.progress.state(self.store.fingerprint, self.scaler.state_dict())
        weights = self._gathered(plain_tensors(self.model))
        moments = self._gathered(optimizer_tensors(self.optimizer))
        self.processes.from_main(lambda: self.store.save(weights, moments, state, epoch_ended))

    def save_best(self) -> None:
        """Keep the weights as they are now as the best ones."""
        best, weights = self.progress.best.state(), self._gathered(plain_tensors(self.model))
        self.processes.from_main(lambda: self.store.save_best(weights, best))

    def within_epoch(self, stop: StopRequest) -> None:
        """After a step: save where that is due, or where the process is to stop, and then stop."""
        every = self.every_steps
        # Asked first and always: several processes answer each other at the same moments.
        if stop.requested() or (every and self.progress.clock.global_step % every == 0):
            self.save()
        stop.leave()

    @contextmanager
    def where_data_fails(self, stop: StopRequest) -> Iterator[None]:
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

    def _gathered(self, tensors: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors for the main process to write; the others help where they hold parts."""
        if not (self.processes.is_main or self.processes.sharded):
            return {}
        keep = self.processes.is_main
        with self.processes.lockstep():
            # The others let go of each at once.
            return {name: tensor for name, tensor in tensors if keep}
