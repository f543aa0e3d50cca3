"""Batches of one sample: batch norm has no spread to normalise by where a map is 1 x 1."""

from collections.abc import Sequence

import torch
from torch import nn

from plumbline.errors import ConfigError
from plumbline.loading.loader import Loader
from plumbline.models.device import autocast, to_device
from plumbline.training.freeze import set_training_mode
from plumbline.training.machine import Machine
from plumbline.training.skipping import FAILURES
from plumbline.training.task import Task
from plumbline.training.window import Buffers

_REFUSAL = "more than 1 value per channel"
"""Of torch's `ValueError`."""


def batch_norms(model: nn.Module) -> list[str]:
    """Names of the norms that see a micro-batch as a whole; frozen ones evaluate and do not."""
    return [
        name
        for name, module in model.named_modules()
        # The base of batch norms of 1 to 3 dimensions.
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]


def check_lone_samples(
    model: nn.Module,
    task: Task,
    train: Loader,
    epochs: int,
    micro_batch_size: int | None,
    *,
    frozen: Sequence[str],
    machine: Machine,
) -> None:
    """Refuse batches that would end the training at whatever step they come.

    Asked of the model itself, in the mode in which it trains: whether its norms take one sample
    depends on the size of their maps.

    Raises:
        ConfigError: names the settings that decide on the batches.
    """
    set_training_mode(model, frozen)
    norms = batch_norms(model)
    if not norms or not train.leaves_one_alone(epochs, micro_batch_size):
        return
    buffers = Buffers(model)  # the trial moves statistics, as any pass does
    try:
        batch = to_device(task.collate([train.source.sample(0, 0)]), machine.device)
        with torch.no_grad(), autocast(machine.device, machine.precision):
            task.loss(model, batch)
    except FAILURES as error:
        if _REFUSAL in str(error):
            raise ConfigError(
                f"{train.describe_lone_sample(micro_batch_size)}: the batch norm of {norms[0]} "
                "takes more than one value in training; "
                f"{train.remedy_for_lone_sample(micro_batch_size)}"
            ) from None
        # Whatever else is wrong with this sample, its own step tells.
    finally:
        buffers.restore()
