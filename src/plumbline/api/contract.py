"""What a caller's loss may return, and the check of it before the first step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plumbline.api.dataset import NUMBERS
from plumbline.batch import Batch, LossSum
from plumbline.errors import ConfigError
from plumbline.models.device import autocast, to_device
from plumbline.training.freeze import set_training_mode
from plumbline.training.machine import Machine
from plumbline.training.task import Task
from plumbline.training.window import Buffers

Loss = Callable[[nn.Module, Batch], Any]
"""(model, batch) -> a `LossSum`, (sum, count), or the mean over the batch as a scalar tensor []."""


def summed(loss: Loss) -> Callable[[nn.Module, Batch], LossSum]:
    """A caller's loss as the trainer wants it: a sum [] and a count [].

    A mean counts once for each sample of its batch. Where samples count unequally, as tokens do, a
    mean of means is not the mean: such a loss returns its sum and count.
    """

    def compute(model: nn.Module, batch: Batch) -> LossSum:
        # Without the numbers, which are the trainer's: a loss may be `model(**batch)`.
        given = {name: value for name, value in batch.items() if name != NUMBERS}
        return as_sum(loss(model, given), len(batch[NUMBERS]))

    return compute


def as_sum(found: object, samples: int) -> LossSum:
    """What a loss returned, as a sum [] and a count [].

    Args:
        found: as `Loss` says.
        samples: in the batch.

    Raises:
        ConfigError: it is nothing of the kind.
    """
    if isinstance(found, LossSum):
        return found
    if isinstance(found, tuple) and len(found) == 2:
        total, count = found
        if isinstance(total, Tensor) and not total.shape and isinstance(count, Tensor | int):
            there = torch.as_tensor(count, device=total.device)
            return LossSum(total, there)
    if isinstance(found, Tensor) and not found.shape:
        # In float32 at least: a half has no room for the sum of a batch.
        wide = found if found.dtype == torch.float64 else found.float()
        return LossSum(wide * samples, torch.tensor(samples, device=found.device))
    raise ConfigError(
        f"fit: the loss returned {_described(found)}: return the mean over the batch as a scalar "
        "tensor, or (sum, count)"
    )


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {list(found.shape)}"
    if isinstance(found, tuple):
        return f"({', '.join(map(_described, found))})"
    return f"a {type(found).__name__}"


def check_loss(
    model: nn.Module, task: Task, batch: Batch, frozen: Sequence[str], machine: Machine
) -> list[str]:
    """Compute the loss of a batch once and leave nothing behind, to refuse what cannot train.

    Args:
        model: with its parameters frozen already, where any are.
        task: of the training.
        batch: of the first samples.
        frozen: parts of the model.
        machine: what is computed on; the model goes to its device.

    Returns:
        The names of parameters to which it brings no gradient.

    Raises:
        ConfigError: the loss returns something else than it may, or does not depend on the model.
    """
    model.to(machine.device)
    set_training_mode(model, frozen)
    buffers = Buffers(model)  # a pass moves statistics
    devices = [machine.device] if machine.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), autocast(machine.device, machine.precision):
            found = task.loss(model, to_device(batch, machine.device))
    finally:
        buffers.restore()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reached = set(map(id, _leaves(found.total)))
    unused = [name for name, parameter in trained.items() if id(parameter) not in reached]
    if len(unused) == len(trained):
        raise ConfigError(
            "fit: the loss has no gradient for any parameter: compute it with the model that it is "
            "given, not with another one, and without detach, no_grad or .item()"
        )
    return unused


def _leaves(total: Tensor) -> Iterator[Tensor]:
    """The tensors [...] to which a backward pass from a sum [] would bring a gradient."""
    waiting, seen = [total.grad_fn], set()
    if total.is_leaf and total.requires_grad:
        yield total
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # Where gradients add up in a leaf, and not in the graph.
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        waiting += [following for following, _ in node.next_functions]
