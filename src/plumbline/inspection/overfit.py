"""Can the model learn one batch by heart? If not, something is wrong before data or size matter."""

import argparse
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.config import Config
from plumbline.errors import TrainingError
from plumbline.inspection.outputs import tensors_of
from plumbline.inspection.probe import draw_samples, run_probe
from plumbline.inspection.result import Report
from plumbline.inspection.target import Target
from plumbline.training.task import TrainingJob
from plumbline.training.trainer import Trainer

SETTLED = 3
"""Steps in a row below the goal, so that one lucky step of a noisy loss does not count."""


@dataclass
class Course:
    """The loss per target and the gradient's norm of each step."""

    goal: float
    """Share of the first loss to get below."""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    idle: set[str] = field(default_factory=set)
    """Parts of the model that train but had no gradient at the first step."""

    def after(self, trainer: Trainer) -> bool:
        """Take a step; false when the loss is low enough."""
        row = trainer.progress.history.steps[-1]
        if not self.losses:
            self.idle = _without_gradient(trainer.model)
        self.losses.append(float(row["loss"]))
        self.norms.append(float(row["grad_norm"]))
        return not self.reached

    @property
    def reached(self) -> bool:
        """Whether the loss stayed below its goal."""
        last = self.losses[-SETTLED:]
        return len(last) == SETTLED and max(last) < self.goal * self.losses[0]


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Train on one batch until its loss has fallen to a share of what it was.

    Label smoothing, which keeps a loss from falling so far, is switched off.

    Raises:
        TrainingError: it does not fall so far; the text says what to look at.
    """
    job = _without_smoothing(target)
    numbers = draw_samples(target, job, options.samples)
    changing = _changing(job, numbers)
    course = Course(options.share)
    run_probe(target, job, numbers * options.steps, len(numbers), course.after)
    first, last = course.losses[0], course.losses[-1]
    if not course.reached:
        raise TrainingError(_verdict(target, course, changing, options.steps))
    text = (
        f"ok: {len(numbers)} samples learnt by heart: loss {first:.4g} -> {last:.4g} in "
        f"{len(course.losses)} steps (goal {course.goal:.0%} of the start)"
    )
    data: dict[str, object] = {
        "samples": len(numbers),
        "steps": len(course.losses),
        "losses": course.losses,
        "grad_norms": course.norms,
    }
    return Report(text, data)


def _without_smoothing(target: Target) -> TrainingJob:
    """The job again, where its loss has label smoothing without it."""
    from plumbline.training.run import open_job

    train = target.config.train
    task: Config = train.task
    if not getattr(task, "label_smoothing", 0.0):
        return target.job
    task = task.model_copy(update={"label_smoothing": 0.0})
    config = target.config.model_copy(update={"train": train.model_copy(update={"task": task})})
    return open_job(config, target.machine)


def _changing(job: TrainingJob, numbers: list[int]) -> list[str]:
    """What of a batch is another when the same samples are fetched again."""
    first, again = (_collate(job, numbers) for _ in range(2))
    return [
        name
        for (name, one), (_, other) in zip(tensors_of(first), tensors_of(again), strict=True)
        if one.shape != other.shape or not torch.equal(one, other)
    ]


def _collate(job: TrainingJob, numbers: list[int]) -> Batch:
    return job.task.collate([job.train.sample(number, 0) for number in numbers])


def _without_gradient(model: nn.Module) -> set[str]:
    """Parts none of whose parameters got a gradient, although some of them train."""
    trained: dict[str, list[Tensor | None]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained.setdefault(name.split(".")[0], []).append(parameter.grad)
    return {
        part
        for part, gradients in trained.items()
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    }


def _verdict(target: Target, course: Course, changing: list[str], steps: int) -> str:
    first, last = course.losses[0], course.losses[-1]
    lr = target.config.train.trainer.optim.lr
    said = (
        f"{target.key}: one batch is not learnt: loss {first:.4g} -> {last:.4g} after "
        f"{len(course.losses)} steps, not below {course.goal:.0%} of the start"
    )
    return f"{said}; {_hint(course, changing, lr, steps)}"


def _hint(course: Course, changing: list[str], lr: float, steps: int) -> str:
    first, last = course.losses[0], min(course.losses[-SETTLED:])
    if not any(course.norms):
        return (
            "no gradient reaches a trained parameter: the loss is detached from them, or all that "
            "it depends on is frozen (train.freeze)"
        )
    if changing:
        return (
            f"{', '.join(changing)} of the batch changes each time the same samples are fetched: "
            "there is nothing fixed to learn; draw from keyed generators alone"
        )
    if math.isclose(first, last, rel_tol=1e-3):
        idle = f"; no gradient in {', '.join(sorted(course.idle))}" if course.idle else ""
        return f"it hardly moves: raise trainer.optim.lr ({lr:g}), check the optimiser{idle}"
    if last > first:
        return f"it rises: lower trainer.optim.lr ({lr:g})"
    half = course.losses[len(course.losses) // 2]
    if half - last > 0.1 * (first - last):
        return f"it is still falling: --steps {4 * steps}, or raise trainer.optim.lr ({lr:g})"
    return (
        "it falls and stays there: the same input may have contradicting labels in the batch "
        "(fewer --samples tells), the labels may change from step to step, or the model is too "
        f"small or its trainer.optim.lr ({lr:g}) too high"
    )
