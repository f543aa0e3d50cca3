"""When a model is validated, and what is measured then."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from plumbline.batch import Batch
from plumbline.loading.loader import Loader
from plumbline.metrics.known import drop_undefined
from plumbline.training.config import TrainerConfig
from plumbline.training.evaluation import evaluate_loss
from plumbline.training.machine import Machine
from plumbline.training.progress import OnLog, Progress
from plumbline.training.signals import StopRequest
from plumbline.training.stopping import check_metrics
from plumbline.training.task import Task


@dataclass(frozen=True)
class Validation:
    """The validations of one training, over the whole of a split."""

    model: nn.Module
    task: Task
    """Makes batches without augmentation, where the training has any."""
    loader: Loader | None
    """Of the split; None where the training has no validation."""
    config: TrainerConfig
    machine: Machine
    progress: Progress
    stop: StopRequest
    """A signal ends the wait for a batch."""
    on_log: OnLog

    def is_due_by_steps(self) -> bool:
        """Whether the step just made is one of those after which the settings ask for one."""
        every, step = self.config.validate_every_steps, self.progress.clock.global_step
        return every is not None and step > 0 and step % every == 0

    def is_due_by_epochs(self) -> bool:
        """Whether the epoch just ended is one of those after which the settings ask for one."""
        every = self.config.validate_every_epochs
        return every > 0 and self.progress.clock.epoch % every == 0

    def _batches(self, loader: Loader) -> Iterator[Batch]:
        """The split in one order, the first epoch's: values of different epochs are compared."""
        # A loss that compares samples needs a whole batch at once; without a graph it is small.
        size = None if self.task.window is not None else self.progress.micro_batch_size
        return itertools.chain.from_iterable(loader.micro_batches(epoch=0, size=size))

    def measure(self) -> Mapping[str, float] | None:
        """Measure the split and put it on record; None where these very weights were measured.

        Returns:
            The metrics that have a value, the mean loss among them.

        Raises:
            ConfigError: a metric that the settings name is not among those of the task.
        """
        assert self.loader is not None, "check_splits has seen to it"
        clock, history = self.progress.clock, self.progress.history
        done = history.validations
        if done and done[-1]["global_step"] == clock.global_step:
            return None
        processes = self.machine.processes
        # With a sharded model every forward pass needs all processes, also those of the metrics.
        with processes.lockstep():
            batches = self.stop.while_waiting(self._batches(self.loader))
            loss = evaluate_loss(self.model, self.task, batches, self.machine)
            of_split = processes.by_model(lambda: dict(self.task.validation_metrics(self.model)))
        measured = {"loss": loss, **self.task.loss_metrics(loss), **of_split}
        check_metrics(self.config, measured, self.task.name)
        metrics = drop_undefined(measured)
        history.validations.append(
            {"global_step": clock.global_step, "epoch": clock.epoch, **metrics}
        )
        self.on_log(clock.global_step, {f"val/{name}": v for name, v in metrics.items()})
        return metrics
