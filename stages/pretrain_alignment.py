"""Stage `pretrain_alignment`: an image encoder and a text encoder learn to meet in one space."""

from collections.abc import Sequence

from pydantic import Field

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.files import output_lock
from plumbline.loading.loader_config import LoaderConfig
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tasks.config import AlignmentModelConfig, AlignmentTaskConfig
from plumbline.tracking.record import record_run
from plumbline.training.config import TrainerConfig


class AlignmentTrainConfig(Config):
    """Section `train` of an alignment."""

    model: AlignmentModelConfig
    task: AlignmentTaskConfig = Field(default_factory=AlignmentTaskConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)


class PretrainAlignmentConfig(Config):
    """What is aligned, and how."""

    seed: int
    threads: int = Field(ge=1)
    data: str
    train: AlignmentTrainConfig


SPEC = StageSpec(
    name="pretrain_alignment",
    schema=PretrainAlignmentConfig,
    group="align",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "data": f"align.{key}.data",
        "train": f"align.{key}.train",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `models/align/<name>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.tasks.alignment import build_alignment
    from plumbline.training.run import TrainingRun, train_to_folder

    config = call.config
    out = paths.aligned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        cache = TrainingCache(paths.cache(config.data))
        job = build_alignment(cache, config.train.model, config.train.task, seed=config.seed)
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
