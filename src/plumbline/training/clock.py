"""Where a training stands: the one count of progress, and the best validation so far."""

import math
from dataclasses import dataclass
from typing import TypedDict


@dataclass
class Clock:
    """The one count of progress; schedule, log, checkpoint and early stopping all read it."""

    epoch: int = 0
    """Epochs ended, which is also the number of the epoch under way."""
    micro_in_epoch: int = 0
    """Batches of this epoch already used."""
    micro_step: int = 0
    """Batches used so far."""
    global_step: int = 0
    """Optimiser updates made so far."""
    samples: int = 0
    targets: int = 0
    """What the losses so far were counted over: tokens, images or whatever the task counts."""
    skipped: int = 0
    """Optimiser steps left out: not finite, or their window failed."""

    def pass_over(self, batches: int, samples: int) -> None:
        """Count the batches of a window, and the samples in them, as used."""
        self.micro_in_epoch += batches
        self.micro_step += batches
        self.samples += samples


class BestState(TypedDict):
    """A best validation as plain data."""

    value: float | None
    global_step: int
    epoch: int


@dataclass
class Best:
    """The best validation so far; only a finite value is best, and of equals the first stays."""

    value: float | None = None
    global_step: int = 0
    epoch: int = 0

    def state(self) -> BestState:
        """It as plain data, for a checkpoint."""
        return {"value": self.value, "global_step": self.global_step, "epoch": self.epoch}

    def update(self, value: float, mode: str, clock: Clock) -> bool:
        """Take a new value; true when it is the best so far, by however little."""
        sign = 1 if mode == "max" else -1
        if not math.isfinite(value):
            return False
        if self.value is not None and sign * (value - self.value) <= 0:
            return False
        self.value = value
        self.global_step, self.epoch = clock.global_step, clock.epoch
        return True
