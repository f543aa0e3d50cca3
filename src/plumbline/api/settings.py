"""Settings of `plumbline.fit`: those of a section `train`, for a model that no kind builds."""

import os
from collections.abc import Mapping
from typing import TypedDict

from pydantic import Field, ValidationError
from typing_extensions import override

from plumbline.config import Config, check_config
from plumbline.errors import ConfigError
from plumbline.kind import Kind
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.config import TrainerConfig
from plumbline.training.sections import TrainingConfig, TrainSection
from plumbline.training.task_config import TaskConfig
from plumbline.weights.settings import NOWHERE


class Settings(TypedDict, total=False):
    """What `fit` takes by keyword, in the words of params.yaml."""

    seed: int
    threads: int
    freeze: list[str]
    loader: dict[str, object]
    trainer: dict[str, object]
    allow_unused: bool
    """Whether parameters may be without a gradient in the first batch, as experts are that no
    sample of it goes to."""


class _Given(Config):
    """As the caller wrote them, so that an error names them so."""

    seed: int
    threads: int = Field(ge=1)
    freeze: list[str]
    loader: LoaderConfig
    trainer: TrainerConfig


class FitConfig(TrainingConfig):
    """A training whose model, data and loss are objects of the caller's."""

    data: str = ""
    weights: str = NOWHERE

    @property
    @override
    def work(self) -> Kind:
        return Kind("fit", "plumbline.api")


def read_settings(given: Mapping[str, object], *, threads: int, validates: bool) -> FitConfig:
    """Check what a caller gave.

    Args:
        given: by the names of `Settings`.
        threads: compute threads where none are asked for.
        validates: whether there is a validation dataset.

    Raises:
        ConfigError: one line with the key, its value, the rule and the nearest valid name; or the
            settings ask for processes that nobody started.
    """
    trainer = given.get("trainer", {})
    started = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else None
    if started is not None and isinstance(trainer, Mapping):
        trainer = {"processes": started, **trainer}
    if not validates and isinstance(trainer, Mapping):
        trainer = _without_validation(trainer)
    values = {"seed": 0, "threads": threads, "freeze": [], "loader": {}, **given}
    values["trainer"] = trainer
    read = check_config(_Given, {name: name for name in values}, values)
    if started is None and read.trainer.processes > 1:
        count = read.trainer.processes
        raise ConfigError(
            f"trainer.processes = {count}: a notebook is one process; start a script by torchrun "
            f"--nproc-per-node {count}, and leave the setting out"
        )
    try:
        train = TrainSection(
            model=Config(),
            task=TaskConfig(),
            freeze=read.freeze,
            loader=read.loader,
            trainer=read.trainer,
        )
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(message.removeprefix("Value error, ")) from None
    return FitConfig(seed=read.seed, threads=read.threads, train=train)


def _without_validation(trainer: Mapping[str, object]) -> Mapping[str, object]:
    """Settings with which nothing is validated, unless they ask for it.

    Raises:
        ConfigError: one needs a validation.
    """
    if {"validate_every_epochs", "validate_every_steps"} & trainer.keys():
        return trainer  # the trainer says that there is no split
    for name in ("early_stopping", "monitor"):
        if trainer.get(name) is not None:
            raise ConfigError(f"trainer.{name} needs validation: give fit a validation dataset")
    return {**trainer, "validate_every_epochs": 0}
