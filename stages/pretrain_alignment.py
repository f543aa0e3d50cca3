"""Stage `pretrain_alignment`: an image encoder and a text encoder learn to meet in one space."""

from collections.abc import Sequence

from pydantic import Field

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.files import output_lock
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.config import DualEncoderConfig
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tasks.config import AlignmentTaskConfig
from plumbline.tracking.record import record_run
from plumbline.training.config import TrainerConfig


class AlignmentTrainConfig(Config):
    """Section `train` of an alignment."""

    model: DualEncoderConfig
    freeze: list[str] = Field(default_factory=list)
    """Parts of the model that stay as they are, such as text_encoder."""
    task: AlignmentTaskConfig
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
    from plumbline.models.device import resolve_device
    from plumbline.tasks.alignment import build
    from plumbline.tasks.base import JobContext
    from plumbline.training.run import TrainingRun, train_to_folder

    config, train = call.config, call.config.train
    out = paths.aligned(call.key)
    with record_run(stage=SPEC.name, key=call.key, config=call.plain) as run, output_lock(out):
        context = JobContext(
            cache=TrainingCache(paths.cache(config.data)),
            seed=config.seed,
            freeze=train.freeze,
            device=resolve_device(train.trainer.device),
            cache_bytes=train.loader.cache_mb << 20,
        )
        job = build(context, train.model, train.task)
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
