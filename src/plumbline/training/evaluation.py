"""Mean loss over a split."""

import torch
from torch import nn

from plumbline.batch import Batch
from plumbline.loading.loader import Loader
from plumbline.models.device import autocast
from plumbline.tasks.base import Task


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch; strings stay."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


@torch.inference_mode()
def evaluate_loss(
    model: nn.Module, task: Task, loader: Loader, device: torch.device, precision: str
) -> float:
    """Loss per target, over all batches of an unshuffled loader; the model is left evaluating."""
    model.eval()
    total, count = 0.0, 0
    for batch in loader.batches(epoch=0):
        with autocast(device, precision):
            loss = task.loss(model, to_device(batch, device))
        total += loss.total.item()
        count += int(loss.count.item())
    return total / max(count, 1)
