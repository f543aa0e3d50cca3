"""What a training step takes of memory, from a step over tensors that have none.

The model's own code runs on shapes and types (PyTorch's fake tensors): each tensor that it would
make is counted from its beginning to its end. Numbers that a shape depends on, such as ids and
masks, are real, so that all of a batch is as large as it will be.
"""

import copy
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from plumbline.batch import Batch
from plumbline.models.device import autocast, to_device
from plumbline.training.checkpointing import Checkpointing
from plumbline.training.flops import StepFlops, count_step
from plumbline.training.freeze import freeze, set_training_mode
from plumbline.training.machine import Machine
from plumbline.training.optim import build_optimizer
from plumbline.training.sections import TrainSection
from plumbline.training.task import Embedded, Task, WindowLoss

GIB = 2**30
BLOCK_BYTES = 512
"""Of PyTorch's allocator for GPUs, which rounds up to it."""
MAPPED_BYTES = 32 * 2**20
"""The most that the C library takes from its heap, once a process has given back as much."""
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a step takes at its peak."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    """Of the parameters that train."""
    optimizer: int
    """The state that it keeps of them."""
    activations: int
    """All else: what the backward pass needs, logits, the batch itself, intermediate results."""
    copies: int
    """Of weights and optimizer state, from which checkpoints are written; those of a GPU's tensors
    are in the memory of the host, and none here."""

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.by_part().values())

    def by_part(self) -> dict[str, int]:
        """Each by its name."""
        return asdict(self)

    def __str__(self) -> str:
        """In units for people."""
        parts = ", ".join(f"{name} {as_text(size)}" for name, size in self.by_part().items())
        return f"{as_text(self.total)}: {parts}"


def as_text(size: int) -> str:
    """Bytes in a unit for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """Notes when memory is taken for tensors that are made within it, and when it is given back."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Count from 0, beside what is there already."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._next = itertools.count()
        self._numbers = weakref.WeakKeyDictionary(
            {tensor.untyped_storage(): next(self._next) for tensor in known}
        )
        self._changes: list[tuple[int, int]] = []
        """The number of a storage, and its bytes: negative where they are given back."""
        self._sums: list[tuple[int, int]] = []
        """What is taken once its summands have been given back."""

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is torch.ops.aten._fused_adamw_.default:
            return None  # in place, and without a kernel for shapes alone
        self._end_sums()
        made = func(*args, **(kwargs or {}))
        is_sum = func is torch.ops.aten.add.Tensor and _is_of_the_engine()
        self._note(made, self._sums if is_sum else self._changes)
        return made

    def take(self, tensors: object) -> None:
        """Note tensors that come from elsewhere."""
        self._note(tensors, self._changes)

    def _note(self, made: object, into: list[tuple[int, int]]) -> None:
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._numbers:  # a view has the one of its base
                number = self._numbers[storage] = next(self._next)
                size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
                into.append((number, size))
                weakref.finalize(storage, self._changes.append, (number, -size))

    def _end_sums(self) -> None:
        self._changes += self._sums
        self._sums.clear()

    def peak(self) -> int:
        """The most bytes at once so far."""
        self._end_sums()
        return max(itertools.accumulate((size for _, size in self._changes), initial=0))

    def peak_of_heap(self, gradients: Iterable[Tensor]) -> int:
        """The most bytes that a process has held so far, of what it takes from its heap.

        Gradients lie as long as the step, between what other tensors leave, and find little of
        their room: it stays with the process, for what is alike in the next layer or step. What
        is large is mapped by itself and is given back at once.
        """
        self._end_sums()
        lasting = {self._numbers[gradient.untyped_storage()] for gradient in gradients}
        mapped = of_gradients = others = most_of_others = peak = 0
        for number, size in self._changes:
            if abs(size) > MAPPED_BYTES:
                mapped += size
            elif number in lasting:
                of_gradients += size
            else:
                others += size
                most_of_others = max(most_of_others, others)
            peak = max(peak, mapped + of_gradients + most_of_others)
        return peak


def _is_of_the_engine() -> bool:
    """Whether an operation is the sum of gradients that meet in a backward pass.

    The engine adds to the first of them in place, but not where it has no memory.
    """
    return torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()


class _Answers(TorchFunctionMode):
    """Answers what only numbers could: tensors without memory have none."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is Tensor.__getitem__ and isinstance(args[0], FakeTensor):
            # Of a real mask it is known how many it chooses.
            args = [args[0], _numbered(args[1])]
        elif func is torch.equal and any(isinstance(given, FakeTensor) for given in args):
            return True
        return func(*args, **(kwargs or {}))


def _numbered(index: object) -> object:
    """An index with the places that a mask [...] of whole leading dimensions chooses."""
    if isinstance(index, Tensor) and index.dtype == torch.bool:
        return index.nonzero(as_tuple=True)
    return index


class Estimator:
    """Runs steps of one training without their memory."""

    def __init__(self, model: nn.Module, task: Task, config: TrainSection, machine: Machine):
        """Copy a model without its memory; errors as the model's, where it cannot be copied."""
        self._task, self._config, self._machine = task, config, machine
        # Not entered: what has no such tensor among its inputs is computed with real numbers.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._model = self._without_memory(model)
        freeze(self._model, config.freeze)
        set_training_mode(self._model, config.freeze)
        if config.trainer.gradient_checkpointing:
            Checkpointing(self._model)

    def need(self, micro_batch: Batch, count: int) -> MemoryNeed:
        """What a step takes.

        Args:
            micro_batch: the largest of its micro-batches.
            count: how many of them there are in the step.
        """
        self._model.zero_grad(set_to_none=True)
        held = [*self._model.parameters(), *self._model.buffers()]
        optimizer = build_optimizer(self._model, self._config.trainer.optim)
        with torch.random.fork_rng(devices=[]), _Answers(), _Live(held) as live:
            batch = self._on_device(micro_batch)
            live.take(batch)
            if self._task.window is not None and count > 1:
                self._run_window(self._task.window, batch, count)
            else:
                # The first finds no gradients, any other those of the ones before it.
                for _ in range(min(count, 2)):
                    self._run(batch)
            gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
            of_gradients = _bytes(gradients)
            is_cpu = self._machine.device.type == "cpu"
            of_passes = live.peak_of_heap(gradients) if is_cpu else live.peak()
            if gradients:
                optimizer.step()  # the first one makes the state, which then stays
            state = _bytes(tree_leaves(list(optimizer.state.values())))
            # From the second step on the passes have the state beside them, as the update has.
            of_update = live.peak() - state
        weights = _bytes(held)
        activations = max(of_passes, of_update) - of_gradients
        copies = weights + state if is_cpu else 0
        return MemoryNeed(weights, of_gradients, state, activations, copies)

    def flops(self, batch: Batch) -> StepFlops:
        """As `count_step`, without its memory."""
        with torch.random.fork_rng(devices=[]), _Answers():
            return count_step(self._model, self._task, self._on_device(batch), self._machine)

    def _run(self, batch: Batch) -> None:
        with autocast(self._machine.device, self._machine.precision):
            total = self._task.loss(self._model, batch).total
        if total.requires_grad:
            torch.autograd.backward(total)

    def _run_window(self, rule: WindowLoss, batch: Batch, count: int) -> None:
        """As `Gradients` does: the loss of all embeddings, then micro-batches one by one."""
        with torch.no_grad():
            embedded = self._embed(rule, batch)
        everyones = count * self._machine.processes.count
        parts = [tree_map_only(Tensor, _leaf, dict(embedded)) for _ in range(everyones)]
        with autocast(self._machine.device, self._machine.precision):
            total = rule.loss(self._model, parts).total
        torch.autograd.backward(total)
        del total
        for _ in range(2):  # the second finds the gradients of the first
            made = [t for t in self._embed(rule, batch).values() if t.requires_grad]
            torch.autograd.backward(made, [torch.zeros_like(t) for t in made])

    def _embed(self, rule: WindowLoss, batch: Batch) -> Embedded:
        with autocast(self._machine.device, self._machine.precision):
            return rule.embed(self._model, batch)

    def _without_memory(self, model: nn.Module) -> nn.Module:
        """A copy whose floating-point parameters and buffers have shape, type and device alone."""
        copies: dict[int, object] = {}
        for buffer in model.buffers():
            copies[id(buffer)] = self._on_device({"": buffer})[""]
        for weight in model.parameters():
            if weight.is_floating_point():
                plain = self._on_device({"": weight.detach()})[""]
                copies[id(weight)] = nn.Parameter(plain, weight.requires_grad)
            elif weight.device.type == self._machine.device.type:
                # Held in 4 bits: what its layer makes of it depends on its numbers.
                copies[id(weight)] = weight
            else:
                copies[id(weight)] = copy.deepcopy(weight).to(self._machine.device)
        return copy.deepcopy(model, copies)

    def _on_device(self, batch: Batch) -> Batch:
        """A batch whose floating-point tensors have no memory; whole numbers and masks do."""
        return to_device(tree_map_only(Tensor, self._fake, batch), self._machine.device)

    def _fake(self, tensor: Tensor) -> Tensor:
        return self._mode.from_tensor(tensor) if tensor.is_floating_point() else tensor


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def _bytes(tensors: Iterable[object]) -> int:
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor))
