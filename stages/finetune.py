"""Stage `finetune`: a task's model learns on top of what it starts from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.files import output_lock
from plumbline.loading.loader_config import LoaderConfig
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tasks.config import VlmModelConfig, VlmTaskConfig
from plumbline.tracking.record import record_run
from plumbline.training.config import TrainerConfig


class FinetuneTrainConfig(Config):
    """Section `train` of a task."""

    kind: Literal["vlm"]
    model: VlmModelConfig
    task: VlmTaskConfig = Field(default_factory=VlmTaskConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)


class FinetuneConfig(Config):
    """What is trained, on what, starting from what."""

    seed: int
    threads: int = Field(ge=1)
    data: str
    start: str
    train: FinetuneTrainConfig


SPEC = StageSpec(
    name="finetune",
    schema=FinetuneConfig,
    group="tasks",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
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
    from plumbline.tasks.vlm import build_vlm
    from plumbline.training.run import TrainingRun, train_to_folder

    config = call.config
    out = paths.finetuned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        cache = TrainingCache(paths.cache(config.data))
        job = build_vlm(
            cache,
            Path(config.start),
            config.train.model,
            config.train.task,
            seed=config.seed,
            device=resolve_device(config.train.trainer.device),
        )
        training = TrainingRun(
            stage=f"{SPEC.name}@{call.key}",
            settings=call.plain,
            loader=config.train.loader,
            trainer=config.train.trainer,
            seed=config.seed,
            threads=config.threads,
            frozen=config.train.model.freeze,
        )
        run.facts(train_to_folder(training, job, out, on_log=run.metrics))
        run.artifact(out / "metrics.json")


if __name__ == "__main__":
    run_stage(main)
