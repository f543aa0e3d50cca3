"""What turns the losses of a window into an update, and what holds weights and moments.

The loop calls an engine and does not ask which one it has.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from plumbline.models.weights import local, plain_tensors
from plumbline.training.checkpoint import load_state, optimizer_tensors
from plumbline.training.config import TrainerConfig
from plumbline.training.gradient_sum import GradientSum
from plumbline.training.machine import Machine
from plumbline.training.optim import build_optimizer
from plumbline.training.processes import Processes
from plumbline.training.sharding import ShardedLayers, gradient_norm
from plumbline.training.task import Task


class Engine(Protocol):
    """Makes the updates of one training. It is built of model, settings and machine."""

    optimizer: torch.optim.Optimizer
    """Whose groups have the learning rates; the engine alone lets it step."""

    def __init__(self, model: nn.Module, config: TrainerConfig, machine: Machine) -> None:
        """Take a model over, on the CPU, and bring it to the machine's device.

        Raises:
            ConfigError: model and settings do not go with this engine.
        """

    def applied(self, task: Task) -> Task:
        """The task with which to train the model that was taken over."""

    def backward(self, total: Tensor) -> None:
        """Backpropagate a sum of losses, scalar []; gradients add up until `update` or `forget`."""

    def gradient_sum(self) -> GradientSum:
        """What adds the gradients of a window up over the processes."""

    def forget(self) -> None:
        """Drop the gradients that there are."""

    def scale_and_clip(self, total: Tensor, count: Tensor) -> Tensor:
        """Turn gradients of a window's sum into those of the mean, and clip them.

        Args:
            total: [], of the window's losses.
            count: [], what the sum is over.

        Returns:
            Their norm [] before they were clipped.
        """

    def update(self, scaler: torch.GradScaler) -> None:
        """Let the optimiser step by gradients that are finite."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Weights [...] by their plain names, whole; all processes draw them."""

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """As `optimizer_tensors`, each [of its parameter] or []; all processes draw them."""

    def load(self, path: Path) -> None:
        """Take up the weights and moments of a state on disk."""

    def join(self) -> None:
        """Leave in every process the plain model with whole weights."""

    def facts(self) -> Mapping[str, object]:
        """For the run record."""


class OwnEngine:
    """torch's optimisers over exact sums of gradients; with `shard_layers`, over spread layers."""

    def __init__(self, model: nn.Module, config: TrainerConfig, machine: Machine) -> None:
        """As `Engine`.

        Raises:
            ConfigError: the model has no layers to be spread, or nothing of it trains.
        """
        self._processes, self._config, self._device = machine.processes, config, machine.device
        # Layers are spread before the model moves, so that no device has to hold it whole, and
        # both come before the optimiser, which is to hold the parameters that train.
        sharded = machine.processes.sharded
        self._sharded = ShardedLayers(model, machine.processes) if sharded else None
        self._model = model.to(machine.device)
        self.optimizer = build_optimizer(model, config.optim)
        # In the order in which they are added up; the model is not walked through at each step.
        self._trained = [p for p in self._model.parameters() if p.requires_grad]

    def applied(self, task: Task) -> Task:
        """The task itself."""
        return task

    def backward(self, total: Tensor) -> None:
        """As `Engine`, of a scalar []."""
        torch.autograd.backward(total)

    def gradient_sum(self) -> GradientSum:
        """Over all processes."""
        return GradientSum(self._model, self._processes)

    def forget(self) -> None:
        """As `Engine`."""
        self.optimizer.zero_grad(set_to_none=True)

    def scale_and_clip(self, total: Tensor, count: Tensor) -> Tensor:
        """As `Engine`; of scalars [] of a window."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        if not gradients:
            return torch.zeros_like(total)
        here = [local(gradient) for gradient in gradients]  # the shards of this process
        # Sums become means only here, over the whole window: micro-batches and processes with
        # unequal counts of targets weigh as in one batch.
        scale = 1 / count.double().clamp(min=1)
        exact = any(gradient.dtype == torch.float64 for gradient in here)
        torch._foreach_mul_(here, scale if exact else scale.float())
        # [] of the whole model, after the division: the limit is one of means, for any batch.
        norm = gradient_norm(gradients, self._processes)
        if (limit := self._config.max_grad_norm) is not None:
            # The clamp and its small number as in torch's clip_grads_with_norm_.
            factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
            # It stays a tensor on the device: no wait for its value before the gradients are cut.
            torch._foreach_mul_(here, factor.to(self._device))
        return norm

    def update(self, scaler: torch.GradScaler) -> None:
        """As `Engine`; the scaler leaves a step out where its gradients have overflowed."""
        scaler.step(self.optimizer)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """As `Engine`, each [its own shape]."""
        return plain_tensors(self._model)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """As `Engine`, each [of its parameter] or []."""
        return optimizer_tensors(self.optimizer)

    def load(self, path: Path) -> None:
        """As `Engine`."""
        load_state(path, self._model, self.optimizer)

    def join(self) -> None:
        """As `Engine`."""
        if self._sharded:
            with self._processes.lockstep():
                self._sharded.join()

    def facts(self) -> Mapping[str, object]:
        """Nothing: what is not said is the exact core."""
        return {}


def adds_up_itself() -> GradientSum:
    """For engines whose backward passes leave sums over all processes already."""
    return GradientSum(nn.Module(), Processes())
