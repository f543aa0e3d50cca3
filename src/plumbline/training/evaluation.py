"""Mean loss over a split."""

from collections.abc import Iterable

import torch
from torch import nn

from plumbline.batch import Batch
from plumbline.loading.loader import computes, counts
from plumbline.models.device import autocast, to_device
from plumbline.tasks.base import Task
from plumbline.training.processes import Processes


@torch.inference_mode()
def evaluate_loss(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
    processes: Processes | None = None,
) -> float:
    """Loss per target, over all batches of a split; the model is left evaluating.

    Several processes evaluate their shares of each batch, and all get the loss of the whole.
    """
    model.eval()
    together = processes or Processes()
    total, count = 0.0, 0
    for batch in batches:
        with autocast(device, precision):
            found = _sums(model, task, batch, device, together)
        total, count = total + found[0], count + found[1]
    summed = together.sum([total, count])
    return summed[0] / max(summed[1], 1)


def _sums(
    model: nn.Module, task: Task, batch: Batch, device: torch.device, processes: Processes
) -> tuple[float, int]:
    """The sum and count of a batch: those of the share, or of all where the main process is."""
    if task.window is not None and processes.count > 1:
        embedded = task.window.embed(model, to_device(batch, device)) if computes(batch) else {}
        whole = task.window.loss(model, processes.gather([embedded if counts(batch) else {}]))
        return (whole.total.item(), int(whole.count.item())) if processes.is_main else (0.0, 0)
    if not computes(batch):
        return 0.0, 0
    loss = task.loss(model, to_device(batch, device))
    if not counts(batch):
        return 0.0, 0
    return loss.total.item(), int(loss.count.item())
