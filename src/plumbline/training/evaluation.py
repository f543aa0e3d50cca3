"""Mean loss over a split."""

import torch
from torch import nn

from plumbline.loading.loader import Loader
from plumbline.models.device import autocast, to_device
from plumbline.tasks.base import Task


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
