"""Floating-point operations of one training step, by part of the model.

Counted are matrix products and convolutions, a multiplication with its addition as two, as torch's
`FlopCounterMode` does; what works element by element is left out. Attention is computed as plain
matrix products meanwhile, so the figures do not depend on the kernel that a device would choose.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from plumbline.batch import Batch
from plumbline.models.device import autocast, to_device
from plumbline.training.machine import Machine
from plumbline.training.task import Task
from plumbline.training.window import Buffers


@dataclass(frozen=True)
class StepFlops:
    """Operations of one batch; part -> count, "" for what no part of the model computes."""

    forward: dict[str, int]
    backward: dict[str, int]

    @property
    def step(self) -> dict[str, int]:
        """Both passes by part; parts that compute nothing are left out."""
        both = Counter(self.forward) + Counter(self.backward)
        return dict(both)


class _Ledger:
    """Books the operations since the last entry on the part that made them."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter, self._booked = counter, 0
        self._parts = [""]
        self._events: list[tuple[int, str]] = []
        self.spent: Counter[str] = Counter()

    def _settle(self) -> None:
        total = self._counter.get_total_flops()
        if total > self._booked:
            self.spent[self._parts[-1]] += total - self._booked
            self._booked = total

    def enter(self, part: str) -> None:
        self._settle()
        self._parts.append(part)
        self._note()

    def leave(self) -> None:
        self._settle()
        self._parts.pop()
        self._note()

    def _note(self) -> None:
        """Remember that nodes of the graph from now on belong to the part that computes now."""
        with torch.enable_grad():
            # autograd numbers nodes as they are made; a clone has a node, its leaf has none.
            node = torch.zeros((), requires_grad=True).clone().grad_fn
        assert node is not None, "gradients are enabled"
        self._events.append((node._sequence_nr(), self._parts[-1]))

    def part_of(self, node: Node) -> str:
        """The part whose forward pass made a node."""
        # Events rise in their numbers, so the last one before the node says who computed then.
        at = bisect_right(self._events, node._sequence_nr(), key=lambda event: event[0])
        return self._events[at - 1][1] if at else ""

    def switch(self, part: str) -> None:
        """From now on in the backward pass this part computes."""
        self._settle()
        self._parts = [part]

    def close(self) -> dict[str, int]:
        """End a pass: its counts."""
        self._settle()
        self._parts = [""]
        spent, self.spent = dict(self.spent), Counter()
        return spent


def count_step(model: nn.Module, task: Task, batch: Batch, machine: Machine) -> StepFlops:
    """Count the operations of the loss of a batch and of its gradients.

    The model is left as it was, without gradients.

    Args:
        model: on the machine's device, in the mode that it trains in.
        task: gives the loss.
        batch: as its collate makes one.
        machine: where to compute; the precision does not change the counts.
    """
    buffers = Buffers(model)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operation that nobody counts
    counter = FlopCounterMode(display=False)
    ledger = _Ledger(counter)
    hooks = _watch(model, ledger)
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):
            with autocast(machine.device, machine.precision):
                loss = task.loss(model, to_device(batch, machine.device)).total
            forward = ledger.close()
            if loss.requires_grad:
                _follow(loss, ledger)
                torch.autograd.backward(loss)
            return StepFlops(forward, ledger.close())
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
        buffers.restore()
        model.zero_grad(set_to_none=True)


def _watch(model: nn.Module, ledger: _Ledger) -> list[RemovableHandle]:
    """Tell the ledger when a part begins and ends, also where only something in it is called."""
    hooks: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            # image_encoder.layers.3.norm1 is booked on image_encoder, the model itself on no part.
            part = name.split(".")[0]
            hooks.append(module.register_forward_pre_hook(partial(_enter, ledger, part)))
            hooks.append(module.register_forward_hook(partial(_leave, ledger)))
    return hooks


def _enter(ledger: _Ledger, part: str, module: nn.Module, inputs: object) -> None:
    ledger.enter(part)


def _leave(ledger: _Ledger, module: nn.Module, inputs: object, output: object) -> None:
    ledger.leave()


def _follow(loss: Tensor, ledger: _Ledger) -> None:
    """Tell the ledger, when the backward pass comes to a node, whose it is."""
    # A list in place of recursion: graphs are deeper than Python's stack.
    waiting: list[Node | None] = [loss.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        node.register_prehook(partial(_switch, ledger, ledger.part_of(node)))
        waiting += [following for following, _ in node.next_functions]


def _switch(ledger: _Ledger, part: str, gradients: object) -> None:
    ledger.switch(part)
