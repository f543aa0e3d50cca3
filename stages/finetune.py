"""Stage `finetune`: a task's model learns on top of what it starts from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import Field, create_model

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.files import output_lock
from plumbline.loading.loader_config import LoaderConfig
from plumbline.registry import load_attribute
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tasks.kinds import KINDS
from plumbline.tracking.record import record_run
from plumbline.training.config import TrainerConfig

ModelT = TypeVar("ModelT", bound=Config)
TaskT = TypeVar("TaskT", bound=Config)


class TrainConfig(Config, Generic[ModelT, TaskT]):
    """Section `train` of a task."""

    model: ModelT
    freeze: list[str] = Field(default_factory=list)
    """Parts of the model that stay as they are, such as image_encoder."""
    task: TaskT
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)


class FinetuneConfig(Config):
    """What is trained, on what, starting from what."""

    seed: int
    threads: int = Field(ge=1)
    kind: str
    data: str
    start: str
    train: TrainConfig[Config, Config]


def schema_of_kind(kind: str) -> type[FinetuneConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    entry = KINDS[kind]
    train = TrainConfig[entry.model, entry.task]  # type: ignore[name-defined]
    return create_model("FinetuneConfig", __base__=FinetuneConfig, train=(train, ...))


SPEC = StageSpec(
    name="finetune",
    schema=FinetuneConfig,
    schema_of_kind=schema_of_kind,
    group="tasks",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "start": f"tasks.{key}.start",
        "train": f"tasks.{key}.train",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `models/tasks/<task>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.device import resolve_device
    from plumbline.tasks.base import JobContext
    from plumbline.training.run import TrainingRun, train_to_folder

    config, train = call.config, call.config.train
    out = paths.finetuned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        context = JobContext(
            cache=TrainingCache(paths.cache(config.data)),
            seed=config.seed,
            start=Path(config.start),
            freeze=train.freeze,
            device=resolve_device(train.trainer.device),
            cache_bytes=train.loader.cache_mb << 20,
        )
        job = load_attribute(KINDS[config.kind].build)(context, train.model, train.task)
        training = TrainingRun(
            stage=f"{SPEC.name}@{call.key}",
            settings=call.plain,
            loader=train.loader,
            trainer=train.trainer,
            seed=config.seed,
            threads=config.threads,
            frozen=train.freeze,
        )
        run.facts(train_to_folder(training, job, out, on_log=run.metrics))
        run.artifact(out / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
