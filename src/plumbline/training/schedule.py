"""Learning-rate schedules as pure functions of the optimiser step."""

import math

from plumbline.errors import ConfigError
from plumbline.training.config import ScheduleConfig


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

    The warm-up rises linearly and reaches 1 exactly at step `warmup`; after it a curve falls to
    `final_share` at `total_steps`.

    Source: cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5; inverse square root:
    Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
    """
    warmup = resolve_warmup(config, total_steps)
    if step < warmup:
        return step / warmup
    if config.name == "constant":
        return 1.0
    if config.name == "inverse_sqrt":
        return math.sqrt(max(warmup, 1) / max(step, 1))
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    falling = 1 - progress if config.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_share + (1 - config.final_share) * falling
