"""What the metrics of validations decide beside the best weights: when to stop."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypedDict

from plumbline.errors import ConfigError
from plumbline.training.config import TrainerConfig


class WaitingState(TypedDict):
    """A wait as plain data."""

    since: int
    anchor: float | None


@dataclass
class Waiting:
    """How long a metric has gone without an improvement."""

    since: int = 0
    """Validations since the last change of at least `min_change` for the better."""
    anchor: float | None = None
    """The value of that change."""

    def update(self, value: float, mode: str, min_change: float) -> None:
        """Take the value of the next validation; one that is not finite is no improvement."""
        sign = 1 if mode == "max" else -1
        # Compared with the anchor, not the value before: small steps add up to a change.
        better = self.anchor is None or sign * (value - self.anchor) > min_change
        if math.isfinite(value) and better:
            self.anchor, self.since = value, 0
        else:
            self.since += 1


class EarlyStopping:
    """Ends a training once every metric that is watched has not improved for its patience."""

    def __init__(self, config: TrainerConfig) -> None:
        """Watch what the settings name; nothing, where they name nothing."""
        stopping = config.early_stopping
        self._watched = stopping.watched(config.monitor, config.direction) if stopping else {}
        self._waiting = {name: Waiting() for name in self._watched}

    @property
    def stops(self) -> bool:
        """Whether none of them goes on improving."""
        return bool(self._watched) and all(
            self._waiting[name].since >= watched.patience for name, watched in self._watched.items()
        )

    def update(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of the next validation."""
        for name, watched in self._watched.items():
            value = metrics.get(name, math.nan)  # no value is no improvement
            self._waiting[name].update(value, watched.mode, watched.min_change)

    def state(self) -> dict[str, WaitingState]:
        """What it has in mind as plain data, for a checkpoint."""
        return {
            name: {"since": waiting.since, "anchor": waiting.anchor}
            for name, waiting in self._waiting.items()
        }

    def load_state(self, state: Mapping[str, WaitingState]) -> None:
        """The inverse of `state`."""
        self._waiting = {name: Waiting(**values) for name, values in state.items()}


def check_metrics(config: TrainerConfig, known: Collection[str] | None, task: str) -> None:
    """Refuse to monitor or watch what the task does not measure.

    Args:
        config: names the monitored metric and those of early stopping.
        known: all metrics of a validation; None where they are not known yet.
        task: its name.

    Raises:
        ConfigError: a metric is not among them.
    """
    wanted = {"trainer.monitor": config.monitor}
    if config.early_stopping is not None:
        named = config.early_stopping.metrics
        wanted |= {f"trainer.early_stopping.metrics.{name}": name for name in named}
    for key, name in wanted.items():
        if known is not None and name not in known:
            raise ConfigError(
                f"{key} = {name!r}: not a validation metric of task {task} on this data; there is "
                f"{', '.join(known)}"
            )
