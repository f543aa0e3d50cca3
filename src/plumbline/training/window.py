"""From the micro-batches of one optimiser step to the gradients of their loss."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.loading.loader import computes, counts
from plumbline.models.device import autocast, seed_device, to_device
from plumbline.training.gradient_sum import GradientSum
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import Embedded, Task, WindowLoss


@dataclass(frozen=True)
class WindowSums:
    """What the losses of a window add up to."""

    total: float
    count: int
    micro: list[tuple[float, int]]
    """Loss per target and count of each micro-batch. Where only the window as a whole has a loss,
    each has that one, counted over its samples."""

    def joined(self, lengths: Sequence[int]) -> "WindowSums":
        """With micro-batches put together.

        Args:
            lengths: how many micro-batches each batch was cut into.
        """
        parts = iter(self.micro)
        return replace(self, micro=[_joined([next(parts) for _ in range(n)]) for n in lengths])


@dataclass(frozen=True)
class UnreadSums:
    """The same, still on the device: to be told a number, the host waits until it is computed."""

    total: Tensor
    """[], float64."""
    count: Tensor
    """[], int64."""
    micro: Sequence[tuple[Tensor, Tensor]]
    """Loss per target or the sum of losses, and count, of each micro-batch."""
    of_window: bool = False
    """Whether only the window has a loss, so that the first of `micro` are means already."""

    def read(self) -> WindowSums:
        """Wait for the numbers."""
        values = [(float(loss), int(count)) for loss, count in self.micro]
        micro = values if self.of_window else [(t / max(c, 1), c) for t, c in values]
        return WindowSums(float(self.total), int(self.count), micro)


def _joined(micro: Sequence[tuple[float, int]]) -> tuple[float, int]:
    if len(micro) == 1:
        return micro[0]
    count = sum(number for _, number in micro)
    # Means of unequal counts: each weighs as much as it counted.
    return sum(loss * number for loss, number in micro) / max(count, 1), count


def _copied(number: Tensor) -> Tensor:
    """A scalar [] in float64 and in memory of its own."""
    return number.detach().to(torch.float64, copy=True)


class Buffers:
    """The buffers of a model, such as moving statistics, to be put back as they were."""

    def __init__(self, model: nn.Module) -> None:
        """Copy them."""
        self._held = [(buffer, buffer.clone()) for buffer in model.buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for buffer, copy in self._held:
            buffer.copy_(copy)

    @torch.no_grad()
    def restore_unless(self, kept: Tensor) -> None:
        """Put them back where a condition [] bool is false, which the host does not ask for."""
        for buffer, copy in self._held:
            buffer.copy_(torch.where(kept, buffer, copy))


@dataclass(frozen=True)
class Gradients:
    """How the losses of a window become the gradients of their sum."""

    model: nn.Module
    task: Task
    machine: Machine
    scaler: torch.GradScaler
    backward: Callable[[Tensor], None] = torch.autograd.backward
    """Of a sum [] of losses."""
    gradient_sum: Callable[[], GradientSum] | None = None
    """What adds up gradients over the processes; None: those that the passes leave in the model."""

    @property
    def processes(self) -> Processes:
        """Those whose gradients add up."""
        return self.machine.processes

    def accumulate(self, window: Sequence[Batch], seeds: Sequence[int]) -> WindowSums:
        """As `add`, and wait for the sums."""
        return self.add(window, seeds).read()

    def add(self, window: Sequence[Batch], seeds: Sequence[int]) -> UnreadSums:
        """Add the gradients of a window's sum to those of the parameters.

        Sum and gradients are over the shares of all processes, and the same in each of them.

        Args:
            window: the micro-batches of one optimiser step.
            seeds: one a micro-batch. Dropout and the like depend on them alone, so a resumed run
                needs no generator state.
        """
        rule = self.task.window
        make = self.gradient_sum or partial(GradientSum, self.model, self.processes)
        over_all = make()
        if rule is not None and (len(window) > 1 or self.processes.count > 1):
            sums = self._whole(rule, window, seeds, over_all)
        else:
            sums = self._one_by_one(window, seeds[0], over_all)
        over_all.finish()
        self.processes.average_buffers(self.model)
        return sums

    def _one_by_one(self, window: Sequence[Batch], seed: int, over_all: GradientSum) -> UnreadSums:
        with self.processes.agreed(), over_all.around():
            losses = self._backward(window, seed, over_all)
        if self.processes.count > 1:
            summed = self.processes.sum([float(number) for loss in losses for number in loss])
            # [total, count, total, count, ...], in the order of the micro-batches.
            pairs = zip(summed[::2], summed[1::2], strict=True)
            losses = [(self._tensor(total), self._tensor(count)) for total, count in pairs]
        # One after the other: the order of additions is part of the result.
        total, count = self._tensor(0.0), self._tensor(0)
        for of_batch, counted in losses:
            total, count = total + of_batch, count + counted
        return UnreadSums(total, count.long(), losses)

    def _tensor(self, number: float) -> Tensor:
        return torch.tensor(number, dtype=torch.float64, device=self.machine.device)

    def _backward(
        self, window: Sequence[Batch], seed: int, over_all: GradientSum
    ) -> list[tuple[Tensor, Tensor]]:
        """Backpropagate micro-batch by micro-batch; the sum and the count of each."""
        seed_device(self.machine.device, seed)
        nothing = self._tensor(0)
        losses: list[tuple[Tensor, Tensor]] = []
        for i, batch in enumerate(window):
            if not computes(batch):
                losses.append((nothing, nothing))
                continue
            with autocast(self.machine.device, self.machine.precision):
                loss = self.task.loss(self.model, to_device(batch, self.machine.device))
            # A stand-in's gradient is 0, and has its process meet the others in each layer.
            total, count = (loss.total, loss.count) if counts(batch) else (loss.total * 0, nothing)
            if total.requires_grad:
                root = self.scaler.scale(total)
                with over_all.during([root]) if i == len(window) - 1 else nullcontext():
                    self.backward(root)
                self._own_gradients(window)
            elif self.processes.sharded:
                raise ValueError("nothing here has a gradient, and sharded layers need one of each")
            # Copies: the next pass of a program that is replayed writes to the same memory.
            losses.append((_copied(total), _copied(count)))
        return losses

    def _own_gradients(self, window: Sequence[Batch]) -> None:
        """Copy gradients out of the memory of a program that is replayed for further passes.

        Source: https://github.com/pytorch/pytorch/issues/169545.
        """
        if len(window) > 1 and self.machine.replays:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    # What comes later is added to it in place.
                    parameter.grad = parameter.grad.clone()

    def _whole(
        self,
        rule: WindowLoss,
        window: Sequence[Batch],
        seeds: Sequence[int],
        over_all: GradientSum,
    ) -> UnreadSums:
        """Embed, differentiate the loss by the embeddings, pull that back through the embedding.

        Of several micro-batches the graph of only one is in memory: they are embedded without
        graphs first and once more with one, under the same dropout, at the price of a second
        forward pass. The loss sees the embeddings of all micro-batches and processes.

        Source: Gao et al. 2021, arXiv:2101.06983, section 3.2.
        """
        keep = len(window) == 1  # its graph is the only one: no second pass
        buffers = None if keep else Buffers(self.model)
        with self.processes.agreed(), torch.set_grad_enabled(keep):
            embedded = [
                self._embed(rule, batch, seed) for batch, seed in zip(window, seeds, strict=True)
            ]
        if buffers:
            buffers.restore()  # the second pass moves them, once
        parts = [
            self._leaves(part) if counts(batch) else {}
            for part, batch in zip(embedded, window, strict=True)
        ]
        # Of all micro-batches and processes, each such as {images: [pairs, width], ...}.
        everyones = self.processes.gather(parts)
        with autocast(self.machine.device, self.machine.precision):
            loss = rule.loss(self.model, everyones)
        with self.processes.agreed(), over_all.around():
            self._differentiate(loss.total, parts)
            for i, part in enumerate(parts):
                stands_in = computes(window[i]) and not counts(window[i])
                if stands_in or any(leaf.grad is not None for leaf in part.values()):
                    again = embedded[i] if keep else self._embed(rule, window[i], seeds[i])
                    last = i == len(parts) - 1
                    self._pull_back(again, part, over_all if last else None)
                    self._own_gradients(window)
        total, count = loss.total.detach().double(), loss.count.long()
        samples = self.processes.sum([float(len(batch["sample_index"])) for batch in window])
        mean = total / count.clamp(min=1)
        micro = [(mean, self._tensor(number)) for number in samples]
        return UnreadSums(total, count, micro, of_window=True)

    def _embed(self, rule: WindowLoss, batch: Batch, seed: int) -> Embedded:
        if not computes(batch):
            return {}
        seed_device(self.machine.device, seed)
        with autocast(self.machine.device, self.machine.precision):
            embedded = rule.embed(self.model, to_device(batch, self.machine.device))
        if torch.is_grad_enabled() or not self.machine.replays:
            return embedded
        # Others are embedded before its loss is made.
        return {name: tensor.clone() for name, tensor in embedded.items()}

    @staticmethod
    def _leaves(embedded: Embedded) -> dict[str, Tensor]:
        return {
            # Leaves: the gradient of the loss stops here, in `.grad`, until it is pulled back.
            name: tensor.detach().requires_grad_(tensor.is_floating_point())
            for name, tensor in embedded.items()
        }

    def _differentiate(self, total: Tensor, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Differentiate by this process's embeddings; only the main one by what is beside them."""
        leaves = [t for part in parts for t in part.values() if t.requires_grad]
        if total.requires_grad and (self.processes.is_main or leaves):
            # Every process computes the same loss. What it reads beside embeddings, such as a
            # temperature, would get its gradient once a process if more than one asked for it.
            inputs = None if self.processes.is_main else leaves
            torch.autograd.backward([self.scaler.scale(total)], inputs=inputs)

    @staticmethod
    def _pull_back(
        embedded: Embedded, part: Mapping[str, Tensor], over_all: GradientSum | None
    ) -> None:
        """Backpropagate what the loss of the window asked of a micro-batch's tensors.

        Of those of a stand-in, which has no part in the loss, it asked nothing.
        """
        asked = {
            name: part[name].grad if part else torch.zeros_like(tensor)
            for name, tensor in embedded.items()
            if tensor.requires_grad
        }
        wanted = {name: gradient for name, gradient in asked.items() if gradient is not None}
        if wanted:
            roots = [embedded[name] for name in wanted]
            with over_all.during(roots) if over_all else nullcontext():
                torch.autograd.backward(roots, list(wanted.values()))
