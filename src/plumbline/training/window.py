"""From the micro-batches of one optimiser step to the gradients of their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.models.device import autocast, to_device
from plumbline.tasks.base import Task, WindowLoss


@dataclass(frozen=True)
class WindowSums:
    """What the losses of a window add up to."""

    total: float
    count: int
    micro: list[tuple[float, int]]
    """Loss per target and count of each micro-batch. Where only the window as a whole has a loss,
    each has that one, counted over its samples."""


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


@dataclass(frozen=True)
class Gradients:
    """How the losses of a window become the gradients of their sum."""

    model: nn.Module
    task: Task
    device: torch.device
    precision: str
    scaler: torch.GradScaler

    def accumulate(self, window: Sequence[Batch], seeds: Sequence[int]) -> WindowSums:
        """Add the gradients of a window's sum to those of the parameters.

        Args:
            window: the micro-batches of one optimiser step.
            seeds: one a micro-batch. Dropout and the like depend on them alone, so a resumed run
                needs no generator state.
        """
        if self.task.window is not None and len(window) > 1:
            return self._whole(self.task.window, window, seeds)
        torch.manual_seed(seeds[0])
        return self._one_by_one(window)

    def _one_by_one(self, window: Sequence[Batch]) -> WindowSums:
        losses: list[tuple[Tensor, Tensor]] = []
        for batch in window:
            with autocast(self.device, self.precision):
                loss = self.task.loss(self.model, to_device(batch, self.device))
            if loss.total.requires_grad:
                self.scaler.scale(loss.total).backward()
            losses.append((loss.total.detach(), loss.count))
        totals, counts = [float(t) for t, _ in losses], [int(c) for _, c in losses]
        micro = [
            (total / max(count, 1), count) for total, count in zip(totals, counts, strict=True)
        ]
        return WindowSums(sum(totals), sum(counts), micro)

    def _whole(self, rule: WindowLoss, window: Sequence[Batch], seeds: Sequence[int]) -> WindowSums:
        """Embed without graphs, differentiate the loss by the embeddings, embed again with graphs.

        So the loss sees the whole window while the graph of only one micro-batch is in memory, at
        the price of a second forward pass. Both passes of a micro-batch draw the same dropout.

        Source: Gao et al. 2021, arXiv:2101.06983, section 3.2.
        """
        buffers = Buffers(self.model)
        with torch.no_grad():
            parts = [
                self._leaves(self._embed(rule, batch, seed))
                for batch, seed in zip(window, seeds, strict=True)
            ]
        buffers.restore()  # the second pass moves them, once
        with autocast(self.device, self.precision):
            loss = rule.loss(self.model, parts)
        if loss.total.requires_grad:
            self.scaler.scale(loss.total).backward()
            for batch, seed, part in zip(window, seeds, parts, strict=True):
                self._pull_back(self._embed(rule, batch, seed), part)
        total, count = float(loss.total.detach()), int(loss.count)
        mean = total / max(count, 1)
        return WindowSums(total, count, [(mean, len(batch["sample_index"])) for batch in window])

    def _embed(self, rule: WindowLoss, batch: Batch, seed: int) -> Mapping[str, Tensor]:
        torch.manual_seed(seed)
        with autocast(self.device, self.precision):
            return rule.embed(self.model, to_device(batch, self.device))

    @staticmethod
    def _leaves(embedded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor.detach().requires_grad_(tensor.is_floating_point())
            for name, tensor in embedded.items()
        }

    @staticmethod
    def _pull_back(embedded: Mapping[str, Tensor], part: Mapping[str, Tensor]) -> None:
        """Backpropagate what the loss of the window asked of a micro-batch's tensors."""
        wanted = [n for n, t in embedded.items() if t.requires_grad and part[n].grad is not None]
        if wanted:
            torch.autograd.backward([embedded[n] for n in wanted], [part[n].grad for n in wanted])
