"""Whether a training fits into memory, said before it starts, and the micro-batches that do."""

import logging
from dataclasses import dataclass

from torch import nn

from plumbline.errors import ConfigError
from plumbline.loading.loader import Loader
from plumbline.training.free_memory import free_bytes
from plumbline.training.freeze import freeze, set_training_mode
from plumbline.training.lone_samples import batch_norms
from plumbline.training.machine import Machine
from plumbline.training.memory_estimate import Estimator, MemoryNeed, as_text
from plumbline.training.progress import chosen_size
from plumbline.training.sections import TrainSection
from plumbline.training.skipping import FAILURES
from plumbline.training.task import Task

USED_SHARE = 0.9
"""Of what is free: the rest is for what no estimate sees, such as gaps between blocks."""
SAID_BYTES = 2**30
"""A training that takes less says nothing before it starts; its run record has the figures."""
UNFORESEEN = (*FAILURES, TypeError, AttributeError, KeyError, AssertionError)
"""What a model's code may raise where it wants the numbers of tensors that have none."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitting:
    """What a training needs, and what there is."""

    micro_batch_size: int | None
    """By the settings, or found for `auto`; None: whole batches."""
    need: MemoryNeed | None
    """At that size; None: the model's code asks for the numbers of its tensors."""
    free: int | None
    """Bytes for this process, what the model takes already included."""

    @property
    def fits(self) -> bool:
        """Whether there is enough, as far as it is known."""
        return self.need is None or self.free is None or self.need.total <= self.free

    def facts(self) -> dict[str, object]:
        """For the run record."""
        if self.need is None:
            return {}
        figures = {**self.need.by_part(), "total": self.need.total, "free": self.free}
        return {"memory": {f"{name}_bytes": size for name, size in figures.items()}}

    def say(self) -> None:
        """Log it in a line where it matters, as a warning where it does not fit."""
        if self.need is None:
            return
        free = "unknown" if self.free is None else as_text(self.free)
        size = self.micro_batch_size
        at_once = "whole batches" if size is None else f"micro-batches of {size} samples"
        line = f"memory for {at_once}: about {self.need}; free: {free}"
        if self.fits and self.need.total < SAID_BYTES:
            return  # a stage that has nothing to say says one line, at its end
        if self.fits:
            logger.info("%s", line)
        else:
            logger.warning(
                "%s: too little; set trainer.micro_batch_size (auto finds it) or "
                "trainer.gradient_checkpointing: true",
                line,
            )


def fit_into_memory(
    model: nn.Module, task: Task, train: Loader, config: TrainSection, machine: Machine
) -> Fitting:
    """Estimate a training's memory; for `micro_batch_size: auto` find what fits.

    Args:
        model: on the CPU still.
        task: gives the loss.
        train: the loader of this process.
        config: the settings of the training.
        machine: what it will be trained on.

    Raises:
        ConfigError: `auto` would decide on the statistics of a batch norm.
    """
    size = chosen_size(config.trainer)
    # What a process holds of spread layers at a time, no run in one process shows.
    if machine.processes.sharded or not len(train):
        return Fitting(size, None, None)
    finds = config.trainer.micro_batch_size == "auto"
    if finds:
        _refuse_batch_norm(model, config)
    free = free_for(model, machine)
    try:
        estimator = Estimator(model, task, config, machine)
        accumulated = config.trainer.grad_accum_steps
        need = needs(estimator, train, size, accumulated)
        while finds and free is not None and need.total > USED_SHARE * free and size != 1:
            # By halves, as a step that runs out of memory is split: runs come to few sizes.
            size = max(1, (size or train.largest_share()) // 2)
            need = needs(estimator, train, size, accumulated)
    except UNFORESEEN as error:
        logger.info("no estimate of the memory: %s", " ".join(str(error).split())[:200])
        # What does not fit is then found by the first step.
        return Fitting(chosen_size(config.trainer), None, free)
    return Fitting(size, need, free)


def needs(estimator: Estimator, train: Loader, size: int | None, batches: int) -> MemoryNeed:
    """What a step of so many batches takes, cut into micro-batches of a size."""
    micro_batches = train.largest(size)
    return estimator.need(micro_batches[0], len(micro_batches) * batches)


def free_for(model: nn.Module, machine: Machine) -> int | None:
    """Bytes for this process, what a model on the CPU takes already included."""
    free = free_bytes(machine.device)
    if free is None or machine.device.type != "cpu":
        return free
    tensors = [*model.parameters(), *model.buffers()]
    # Here already, so no more than what is beside it has to be free.
    here = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    return free // machine.processes.count + here


def _refuse_batch_norm(model: nn.Module, config: TrainSection) -> None:
    freeze(model, config.freeze)
    set_training_mode(model, config.freeze)
    if norms := batch_norms(model):
        raise ConfigError(
            f"trainer.micro_batch_size = 'auto': the batch norm of {norms[0]} sees a micro-batch, "
            "so its size decides on the result; give a number, or null for whole batches"
        )
