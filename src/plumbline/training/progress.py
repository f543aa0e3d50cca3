"""Where a training stands: all that changes in it beside the model, its optimiser and scaler."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict

from plumbline.training.checkpoint import TrainingState
from plumbline.training.clock import Best, Clock
from plumbline.training.config import TrainerConfig
from plumbline.training.history import History
from plumbline.training.schedule import Plateau
from plumbline.training.stopping import EarlyStopping

OnLog = Callable[[int, Mapping[str, float]], None]
"""(global_step, values): called once per optimiser step and validation."""


def chosen_size(config: TrainerConfig) -> int | None:
    """Samples in a micro-batch by the settings; None: whole batches, until memory says else."""
    return None if config.micro_batch_size == "auto" else config.micro_batch_size


class Progress:
    """The progress of one training, shared by what steps, validates and saves."""

    def __init__(self, config: TrainerConfig) -> None:
        """Nothing is done yet."""
        self.clock, self.best, self.history = Clock(), Best(), History()
        self.plateau, self.stopping = Plateau(), EarlyStopping(config)
        self.micro_batch_size = chosen_size(config)
        """Samples that go through the model at once; None: whole batches. The order of float
        additions depends on it, so a resumed run takes up what it was, not what would fit now."""
        self.uncompiled = ""
        """Why passes are not compiled any more, which a resumed run does not try again either."""

    def take(self, metrics: Mapping[str, float], config: TrainerConfig, warmup: int) -> bool:
        """Draw what follows from a validation; true where it is the best so far.

        Args:
            metrics: those that have a value.
            config: says which one is monitored, and which are watched.
            warmup: optimiser steps before which the rate is not lowered.
        """
        value = metrics.get(config.monitor, math.nan)  # without a value it is never the best
        self.stopping.update(metrics)
        if config.schedule.name == "plateau" and self.clock.global_step >= warmup:
            self.plateau.update(value, config.direction, config.schedule)
        return self.best.update(value, config.direction, self.clock)

    def state(self, fingerprint: str, scaler: dict[str, object]) -> TrainingState:
        """All of it but the history as plain data, which does not change as the training goes on.

        Args:
            fingerprint: of the run.
            scaler: the state of the gradient scaler.
        """
        return TrainingState(
            fingerprint=fingerprint,
            clock=asdict(self.clock),
            best=self.best.state(),
            scaler=scaler,
            plateau=self.plateau.state(),
            stopping=self.stopping.state(),
            micro_batch_size=self.micro_batch_size,
            uncompiled=self.uncompiled,
        )

    def load(self, state: TrainingState, history: History) -> None:
        """The inverse of `state`, with the history up to it."""
        self.clock, self.best, self.history = Clock(**state.clock), Best(**state.best), history
        self.plateau = Plateau(**state.plateau)
        self.stopping.load_state(state.stopping)
        self.micro_batch_size = state.micro_batch_size
        self.uncompiled = state.uncompiled
