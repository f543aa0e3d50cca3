"""A few steps of the one training loop over chosen samples, to learn something of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from plumbline.batch import Sample
from plumbline.inspection.target import Target
from plumbline.loading.loader import Loader, SampleSource
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from plumbline.scratch import scratch_folder
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.schedule import ScheduleConfig
from plumbline.training.task import TrainingJob
from plumbline.training.trainer import Trainer

OnStep = Callable[[Trainer], bool]
"""Called after each optimiser step; false ends the probe."""


class Chosen:
    """Samples of a source in a given order, as its first epoch sees them."""

    def __init__(self, source: SampleSource, numbers: Sequence[int]) -> None:
        """Take these samples; one may come again and again."""
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._numbers)

    def sample(self, index: int, epoch: int) -> Sample:
        """See `SampleSource`."""
        return self._source.sample(self._numbers[index], 0)


class _Enough(Exception):  # noqa: N818 - it is no error
    """Ends a probe before the trainer writes a checkpoint."""


def run_probe(
    target: Target, job: TrainingJob, numbers: Sequence[int], batch_size: int, on_step: OnStep
) -> None:
    """Train on samples in their order, with the settings of a training but without validation.

    The learning rate is at its peak from the first step on, and each batch is a step.

    Args:
        target: its settings count.
        job: what is trained; the model is changed.
        numbers: of the samples, batch after batch.
        batch_size: samples in a step.
        on_step: may end the probe.

    Raises:
        TrainingError: a step fails or is not finite.
        ConfigError: there is nothing to train.
    """
    config = target.config
    settings = config.train.trainer.model_copy(
        update={
            "epochs": 1,
            "max_steps": None,
            "grad_accum_steps": 1,
            # What fits is a question here, not to be answered by smaller pieces.
            "micro_batch_size": None,
            "out_of_memory": "fail",
            "validate_every_epochs": 0,
            "validate_every_steps": None,
            "early_stopping": None,
            "schedule": ScheduleConfig(name="constant"),
        }
    )
    with scratch_folder() as folder:
        trainer = _trainer(target, job, numbers, batch_size, settings, folder, on_step)
        try:
            trainer.fit()
        except _Enough:
            return


def _trainer(
    target: Target,
    job: TrainingJob,
    numbers: Sequence[int],
    batch_size: int,
    settings: TrainerConfig,
    folder: Path,
    on_step: OnStep,
) -> Trainer:
    steps = len(numbers) // batch_size

    def on_log(step: int, values: object) -> None:
        if not on_step(trainer) or len(trainer.progress.history.steps) >= steps:
            raise _Enough

    trainer = Trainer(
        job.model,
        job.task,
        Loader(
            Chosen(job.train, numbers),
            job.task.collate,
            LoaderConfig(batch_size=batch_size),
            seed=target.config.seed,
            shuffle=False,
        ),
        None,
        settings,
        target.machine,
        store=CheckpointStore(folder, ""),
        seed=target.config.seed,
        frozen=target.config.train.freeze,
        on_log=on_log,
    )
    return trainer


def draw_samples(target: Target, job: TrainingJob, count: int) -> list[int]:
    """Numbers of distinct samples of the training split; all, where there are fewer."""
    order = keyed_generator(target.config.seed, "order", 0).permutation(len(job.train))
    numbers: list[int] = np.asarray(order)[:count].tolist()
    return numbers
