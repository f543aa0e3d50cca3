"""Steps that do not fit into memory: made again in micro-batches of half the size."""

import logging
from collections.abc import Sequence

from plumbline.batch import Batch
from plumbline.training.config import TrainerConfig
from plumbline.training.lone_samples import batch_norms
from plumbline.training.progress import Progress, chosen_size
from plumbline.training.skipping import is_out_of_memory
from plumbline.training.window import Gradients

logger = logging.getLogger(__name__)


def split_further(
    error: BaseException,
    window: Sequence[Batch],
    gradients: Gradients,
    config: TrainerConfig,
    progress: Progress,
) -> bool:
    """Halve the micro-batches if that may help a window that has failed; whether it was done.

    The whole window is made again, not its last micro-batch alone: a backward pass that failed has
    left a part of its gradients among those of the others. So the step is the one of a run that has
    had the smaller size from here on.

    Args:
        error: what the window failed of.
        window: its micro-batches.
        gradients: of the model in training mode.
        config: says whether to split.
        progress: gets the size, and the row of `splits`.
    """
    processes = gradients.processes
    if config.out_of_memory != "split" or processes.sharded or batch_norms(gradients.model):
        return False
    # Those that failed at the same time may have done so for another reason.
    if not all(processes.collect(is_out_of_memory(error))):
        return False
    size = processes.largest(max(len(batch["sample_index"]) for batch in window))
    clock = progress.clock
    if size < 2:
        _forget_splits(config, progress)
        return False
    progress.micro_batch_size = size // 2
    progress.history.splits.append(
        {
            "global_step": clock.global_step,
            "micro_step": clock.micro_step,
            "epoch": clock.epoch,
            "micro_batch_size": progress.micro_batch_size,
            "reason": "out of memory",
        }
    )
    if processes.is_main:
        logger.warning(
            "optimiser step %d: out of memory; micro-batches of %d samples from here on, not %d",
            clock.global_step,
            progress.micro_batch_size,
            size,
        )
    return True


def _forget_splits(config: TrainerConfig, progress: Progress) -> None:
    """Go back to the size before this window, which a single sample of it does not fit into."""
    rows, now = progress.history.splits, progress.clock.micro_step
    while rows and rows[-1]["micro_step"] == now:
        rows.pop()
    progress.micro_batch_size = int(rows[-1]["micro_batch_size"]) if rows else chosen_size(config)
