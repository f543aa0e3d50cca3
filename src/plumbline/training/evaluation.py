"""Mean loss over a split."""

from collections.abc import Iterable

import torch
from torch import nn

from plumbline.batch import Batch
from plumbline.loading.loader import computes, counts
from plumbline.models.device import autocast, to_device
from plumbline.training.machine import Machine
from plumbline.training.task import Task


@torch.inference_mode()
def evaluate_loss(
    model: nn.Module, task: Task, batches: Iterable[Batch], machine: Machine
) -> float:
    """Loss per target, over all batches of a split; the model is left evaluating.

    Several processes evaluate their shares of each batch, and all get the loss of the whole.
    """
    model.eval()
    total, count = 0.0, 0
    # Sums and counts: batches of unequal counts of targets weigh as one batch would.
    for batch in batches:
        with autocast(machine.device, machine.precision):
            found = _sums(model, task, batch, machine)
        total, count = total + found[0], count + found[1]
    summed = machine.processes.sum([total, count])
    return summed[0] / max(summed[1], 1)


def _sums(model: nn.Module, task: Task, batch: Batch, machine: Machine) -> tuple[float, int]:
    """The sum and count of a batch: those of the share, or of all where the main process is."""
    device, processes = machine.device, machine.processes
    if task.window is not None and processes.count > 1:
        embedded = task.window.embed(model, to_device(batch, device)) if computes(batch) else {}
        # The loss compares samples with each other: each process needs the embeddings of all.
        whole = task.window.loss(model, processes.gather([embedded if counts(batch) else {}]))
        # Each has the loss of the whole batch: added up over processes it would count so often.
        return (whole.total.item(), int(whole.count.item())) if processes.is_main else (0.0, 0)
    if not computes(batch):
        return 0.0, 0
    loss = task.loss(model, to_device(batch, device))
    # A stand-in was computed because sharded layers need every process in each pass.
    if not counts(batch):
        return 0.0, 0
    return loss.total.item(), int(loss.count.item())
