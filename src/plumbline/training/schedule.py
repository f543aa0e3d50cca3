"""Learning-rate schedules: settings, the table of curves, and what `plateau` remembers.

No torch here: the settings are read by every stage. A curve is a pure function of the optimiser
step; only `plateau` has a state, which travels in the checkpoint.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypedDict

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.errors import ConfigError
from plumbline.registry import Registry, check_known

PLATEAU_CHANGE = 1e-4
"""The smallest relative change that counts as an improvement, as in torch."""


class ScheduleConfig(Config):
    """Learning rate over optimiser steps: a warm-up, then a curve."""

    name: str = "cosine"
    """constant, linear, cosine, inverse_sqrt, one_cycle, plateau, or one of a plugin."""
    warmup_steps: int | None = Field(None, ge=0)
    """Optimiser steps of the warm-up; None: none, or those of warmup_share."""
    warmup_share: float | None = Field(None, ge=0.0, lt=1.0)
    """Warm-up as a share of all steps, in place of warmup_steps."""
    final_share: float = Field(0.0, ge=0.0, le=1.0)
    """Learning rate at the last step of linear, cosine and one_cycle, and the least that plateau
    goes down to, as a share of the peak."""
    one_cycle_div: float = Field(25.0, ge=1.0)
    """one_cycle begins at the peak divided by this."""
    plateau_factor: float = Field(0.1, gt=0.0, lt=1.0)
    """plateau multiplies the rate by this."""
    plateau_patience: int = Field(10, ge=0)
    """Validations without an improvement that plateau lets pass; the next one lowers the rate."""
    options: dict[str, float] = Field(default_factory=dict)
    """What a curve of a plugin takes beside these."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        check_known(SCHEDULES, name)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "ScheduleConfig":
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and warmup_share {self.warmup_share} "
                "contradict: set one of them"
            )
        known = SCHEDULES[self.name].options
        for option in self.options:
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(
                    f"options.{option}: schedule {self.name!r} takes {', '.join(known) or 'none'}"
                    f"{meant}"
                )
        return self

    def option(self, name: str) -> float:
        """The value of an option of the curve, or its default."""
        return self.options.get(name, SCHEDULES[self.name].options[name])


def _linear_rise(config: ScheduleConfig, progress: float) -> float:
    return progress


@dataclass(frozen=True)
class ScheduleCurve:
    """The shape of a schedule, as a share of the peak learning rate."""

    after: Callable[[ScheduleConfig, int, int, int], float]
    """(settings, step, warm-up steps, all steps) -> share at a step from the warm-up's end on."""
    rise: Callable[[ScheduleConfig, float], float] = _linear_rise
    """(settings, share of the warm-up that is over, in [0, 1)) -> share within the warm-up."""
    options: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """What it takes from `ScheduleConfig.options`, with its defaults."""


SCHEDULES: Registry[ScheduleCurve] = Registry("schedule")


def _constant(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    return 1.0


def _inverse_sqrt(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    """Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.3."""
    # 1 where the warm-up ends, whatever its length; without one, 1 at steps 0 and 1.
    return math.sqrt(max(warmup, 1) / max(step, 1))


def _progress(step: int, warmup: int, total: int) -> float:
    # Below 1 at the last step, total - 1: with final_share 0 it is made at a rate above 0.
    return min(1.0, (step - warmup) / max(1, total - warmup))


def _linear(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    falling = 1 - _progress(step, warmup, total)
    return config.final_share + (1 - config.final_share) * falling


def _cosine(config: ScheduleConfig, step: int, warmup: int, total: int) -> float:
    """Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5."""
    falling = (1 + math.cos(math.pi * _progress(step, warmup, total))) / 2
    return config.final_share + (1 - config.final_share) * falling


def _cosine_rise(config: ScheduleConfig, progress: float) -> float:
    """Source: Smith and Topin 2017, arXiv:1708.07120, with cosines as torch's OneCycleLR."""
    start = 1 / config.one_cycle_div
    return 1 + (start - 1) / 2 * (1 + math.cos(math.pi * progress))


for _name, _curve in (
    ("constant", ScheduleCurve(_constant)),
    ("linear", ScheduleCurve(_linear)),
    ("cosine", ScheduleCurve(_cosine)),
    ("inverse_sqrt", ScheduleCurve(_inverse_sqrt)),
    ("one_cycle", ScheduleCurve(_cosine, rise=_cosine_rise)),
    ("plateau", ScheduleCurve(_constant)),
):
    SCHEDULES.register(_name, _curve)


def resolve_warmup(config: ScheduleConfig, total_steps: int) -> int:
    """Warm-up in optimiser steps.

    Raises:
        ConfigError: it is longer than the training.
    """
    if config.warmup_share is not None:
        return round(config.warmup_share * total_steps)
    warmup = config.warmup_steps or 0
    if warmup > total_steps:
        raise ConfigError(
            f"schedule.warmup_steps = {warmup}: longer than the training, which has {total_steps} "
            "steps (epochs, max_steps, batch_size and grad_accum_steps decide); shorten it or use "
            "warmup_share"
        )
    return warmup


def lr_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at optimiser step `step`, counted from 0.

    The warm-up reaches 1 exactly at step `warmup`. What `plateau` takes off stands in `Plateau`.
    """
    warmup, curve = resolve_warmup(config, total_steps), SCHEDULES[config.name]
    if step < warmup:
        return curve.rise(config, step / warmup)
    return curve.after(config, step, warmup, total_steps)


class PlateauState(TypedDict, total=False):
    """A plateau as plain data."""

    share: float
    best: float | None
    since: int


@dataclass
class Plateau:
    """How far schedule `plateau` has lowered the rate, and the validations it has in mind.

    It decides as torch's ReduceLROnPlateau does with a relative threshold of 1e-4.
    """

    share: float = 1.0
    """What the curve is multiplied by."""
    best: float | None = None
    since: int = 0
    """Validations without an improvement."""

    def state(self) -> PlateauState:
        """It as plain data, for a checkpoint."""
        return {"share": self.share, "best": self.best, "since": self.since}

    def update(self, value: float, mode: str, config: ScheduleConfig) -> None:
        """Take a new value of the monitored metric."""
        if self._is_better(value, mode):
            self.best, self.since = value, 0
        else:
            self.since += 1
        # Above patience, as in torch; early stopping ends a training at it.
        if self.since > config.plateau_patience:
            self.share = max(self.share * config.plateau_factor, config.final_share)
            self.since = 0

    def _is_better(self, value: float, mode: str) -> bool:
        if self.best is None:
            return math.isfinite(value)
        if mode == "max":
            # Relative, as in torch: where the best is below zero, a value a little worse passes.
            return value > self.best * (1 + PLATEAU_CHANGE)
        return value < self.best * (1 - PLATEAU_CHANGE)
