"""How long a training will be, from its settings and the number of its batches."""

import math

from plumbline.errors import ConfigError
from plumbline.loading.loader import Loader
from plumbline.training.config import TrainerConfig


def check_splits(train: Loader, validation: Loader | None, config: TrainerConfig) -> None:
    """Refuse a training without samples, or validation without any.

    Raises:
        ConfigError: names the setting.
    """
    if not len(train):
        raise ConfigError("no training sample: nothing in the train split fits the task")
    if config.validates and not (validation and len(validation)):
        every = "epochs" if config.validate_every_epochs else "steps"
        raise ConfigError(
            f"trainer.validate_every_{every}: no validation sample; give the dataset a "
            "validation split, or switch validation off to train without (0 epochs, null steps)"
        )


def epoch_ends(train: Loader, config: TrainerConfig) -> list[int]:
    """Optimiser steps made by the end of each epoch; epochs may differ in their batches."""
    ends: list[int] = []
    steps = 0
    for epoch in range(config.epochs):
        # Rounded up: the window that an epoch ends in may be short, and none reaches into the next.
        steps += math.ceil(train.count(epoch) / config.grad_accum_steps)
        if config.max_steps is not None and steps >= config.max_steps:
            return [*ends, config.max_steps]
        ends.append(steps)
    return ends


def count_validations(ends: list[int], config: TrainerConfig) -> int:
    """Validations of a training in which no step is skipped: at epochs' ends, by steps, at last."""
    by_steps, by_epochs = config.validate_every_steps, config.validate_every_epochs
    at_ends = {end for n, end in enumerate(ends, 1) if by_epochs and n % by_epochs == 0}
    at_ends.add(ends[-1])
    if by_steps is None:
        return len(at_ends)
    # An end that steps ask for as well is validated once.
    return ends[-1] // by_steps + sum(end % by_steps != 0 for end in at_ends)


def check_patience(ends: list[int], config: TrainerConfig) -> None:
    """Refuse patience that cannot run out in a training of this length.

    Raises:
        ConfigError: names the settings.
    """
    try:
        config.check_patience(count_validations(ends, config))
    except ValueError as error:
        raise ConfigError(f"trainer.{error}") from None
