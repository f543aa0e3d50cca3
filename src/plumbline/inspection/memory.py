"""What a training takes of memory by the size of its micro-batches, without taking it."""

import argparse

from plumbline.errors import TrainingError
from plumbline.inspection.result import Report, table
from plumbline.inspection.target import Target
from plumbline.loading.loader import Loader
from plumbline.training.fitting import UNFORESEEN, USED_SHARE, free_for, needs
from plumbline.training.memory_estimate import Estimator, MemoryNeed, as_text

COLUMNS = {
    "micro_batch_size": "micro-batch",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "total": "all",
    "fits": "",
}


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Estimate a step for whole batches and for ever smaller micro-batches.

    Raises:
        TrainingError: the model's code needs the numbers of its tensors.
    """
    free = free_for(target.job.model, target.machine)
    limit = None if free is None else int(USED_SHARE * free)
    try:
        found = _by_size(target)
    except UNFORESEEN as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{target.key}: no estimate, as its code needs the numbers of tensors: {reason}"
        ) from error
    fitting = [size for size, need in found.items() if limit is None or need.total <= limit]
    sizes = [
        {"micro_batch_size": size, **need.by_part(), "total": need.total}
        for size, need in found.items()
    ]
    shown = [
        {
            "micro_batch_size": size,
            **{part: as_text(value) for part, value in need.by_part().items()},
            "total": as_text(need.total),
            "fits": "" if size in fitting else "does not fit",
        }
        for size, need in found.items()
    ]
    there = "unknown" if free is None else as_text(free)
    text = f"{table(shown, COLUMNS)}\n\nOf one step; free: {there}, of which {USED_SHARE:.0%} count"
    return Report(
        text, {"free_bytes": free, "largest_that_fits": max(fitting, default=None), "sizes": sizes}
    )


def _by_size(target: Target) -> dict[int, MemoryNeed]:
    """What a step takes, from the whole batch down to one sample at a time."""
    config, job = target.config, target.job
    loader = Loader(
        job.train, job.task.collate, config.train.loader, seed=config.seed, shuffle=True
    )
    estimator = Estimator(job.model, job.task, config.train, target.machine)
    size, found = 2 * loader.largest_share(), {}
    while size > 1:
        size //= 2
        found[size] = needs(estimator, loader, size, config.train.trainer.grad_accum_steps)
    return found
