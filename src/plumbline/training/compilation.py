"""Compiled passes: what a task computes as one program, or layer by layer.

A run that goes on must compute what one never stopped would. Which kernels a program has depends on
the sizes that it was made for, so it is made before the first step, for the same batch in every
run; sizes that differ between batches are left open in it, and what comes in sizes that nobody has
foreseen is computed without one: which of them comes first depends on where a run begins.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.files import STATE_DIR
from plumbline.training.compile_config import CompileConfig
from plumbline.training.layers import stacks
from plumbline.training.processes import Processes
from plumbline.training.task import Task, nothing_to_settle

PROGRAMS = 16
"""Most programs of one function, where sizes are open; else each size has its own."""

Sizes = frozenset[tuple[str, int, int]]
"""Tensors of a batch with their dimensions and sizes."""

MOST_LAYERS = 16
"""Of a model that is compiled as a whole where no setting says so: its program takes minutes to be
made else."""

Result = TypeVar("Result")
Pass = Callable[[nn.Module, Batch], Result]
"""What a task computes of a batch."""

logger = logging.getLogger(__name__)


def keep_programs(root: Path) -> None:
    """Keep what the compiler makes beside the project's state: a run that goes on starts with it.

    Args:
        root: the project. A folder that the environment names instead is left alone.
    """
    folder = (root / STATE_DIR / "compiled").resolve()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


@dataclass
class Compilation:
    """What of one training is compiled."""

    mode: str
    """As torch.compile calls it, or none."""
    config: CompileConfig
    processes: Processes
    unit: str = ""
    """Whole or layers, once it is applied."""
    failure: str = ""
    """Why nothing is compiled any more."""
    _open: set[tuple[str, int]] = field(default_factory=set)
    """(tensor of a batch, its dimension): the sizes that differ between batches."""
    _foreseen: set[Sizes] = field(default_factory=set)
    """Of what has a program, where sizes may be open."""
    _layers: list[nn.Module] = field(default_factory=list)
    _made_for: list[int | None] = field(default_factory=list)
    _before: int = 0
    """Programs that were made in this process for others."""

    @property
    def is_on(self) -> bool:
        """Whether anything is compiled."""
        return self.mode != "none" and not self.failure

    def apply(self, model: nn.Module, task: Task) -> Task:
        """Let `see` compile the layers of a model in place, or what a task computes.

        Returns:
            The task to train with.
        """
        if not self.is_on:
            return task
        self._before = _programs()
        window = task.window and replace(task.window, embed=self.of(model, task.window.embed))
        loss = self.of(model, task.loss, task.settle)
        return replace(task, loss=loss, window=window)

    def of(
        self,
        model: nn.Module,
        plain: Pass[Result],
        settle: Callable[[nn.Module, Batch], None] = nothing_to_settle,
    ) -> Pass[Result]:
        """The same of one pass through a model: it, or what stands for it.

        Args:
            model: that it goes through.
            plain: what is computed of a batch.
            settle: as in `Task`, of the first batch.
        """
        if not self.is_on:
            return plain
        layers = [layer for stack in stacks(model) for layer in stack]
        self.unit = self._unit(len(layers))
        if self.unit == "whole":
            return self._compiled(plain, settle)
        self._layers = layers
        return plain

    def _unit(self, layers: int) -> str:
        if self.processes.sharded:
            return "layers"  # a program of several would hold their meetings with other processes
        if self.config.unit != "auto":
            return self.config.unit
        return "whole" if layers <= MOST_LAYERS else "layers"

    def _options(self) -> dict[str, object]:
        mode = None if self.mode == "default" else self.mode
        return {"mode": mode, "fullgraph": self.config.fullgraph}

    def _compiled(
        self, plain: Pass[Result], settle: Callable[[nn.Module, Batch], None]
    ) -> Pass[Result]:
        # Open are the sizes that are marked, and no others: those found to differ on the way would
        # be so from another batch on where a run begins in the midst of an epoch.
        compiler: Callable[..., Pass[Result]] = torch.compile
        program = compiler(plain, dynamic=False, **self._options())
        unsettled = [settle]

        def call(model: nn.Module, batch: Batch) -> Result:
            if not (self.is_on and self._has_program(batch)):
                return plain(model, batch)
            while unsettled:
                unsettled.pop()(model, batch)
            for name, tensor in _tensors(batch):
                for dimension in range(tensor.ndim):
                    if (name, dimension) in self._open:
                        torch._dynamo.maybe_mark_dynamic(tensor, dimension)
            if self.mode in ("reduce-overhead", "max-autotune"):  # both replay CUDA graphs
                begin: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
                begin()
            try:
                return program(model, batch)
            except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # of no class that is caught
                raise RuntimeError(str(error)) from error

        return call

    def see(self, usual: Sequence[Batch], short: Sequence[Batch]) -> None:
        """Find the sizes that differ between batches, which stay open, and begin with programs.

        Args:
            usual: whole batches, that for which programs are made among them.
            short: some that have fewer samples, at an end: where nothing else differs they get a
                program of their own, which costs the others nothing.
        """
        self._open = set()
        if self.config.dynamic and _differing(usual):
            self._open = _differing([*usual, *short])
        self._foreseen = {self._fixed(batch) for batch in (*usual, *short)}
        for layer in self._layers:
            # Of the object: its weights keep their names.
            layer.compile(**self._options(), dynamic=bool(self._open))

    def _has_program(self, batch: Batch) -> bool:
        return not self.config.dynamic or self._fixed(batch) in self._foreseen

    def _fixed(self, batch: Batch) -> Sizes:
        """The sizes that a program is made for; of an open one whether it is more than 1."""
        return frozenset(
            # Compilers take 0 and 1 for numbers of their own.
            (*at, min(size, 2) if at in self._open else size)
            for at, size in _sizes(batch)
        )

    def wants_programs(self, size: int | None) -> bool:
        """Whether the programs that there are were made for micro-batches of another size.

        Where memory ran short those of the larger size are forgotten: a run that goes on has none.
        """
        if not self.is_on or size in self._made_for[-1:]:
            return False
        if self._made_for:
            torch._dynamo.reset()
        self._made_for.append(size)
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block that trains; after it the layers are as they were."""
        if not self.is_on:
            yield
            return
        import torch._inductor.config as inductor

        # Else the fastest of several kernels is found by the clock, another one each time.
        exact = torch.are_deterministic_algorithms_enabled() and self.mode != "max-autotune"
        of_dynamo = torch._dynamo.config
        limit = PROGRAMS if self.config.dynamic else sys.maxsize
        in_all = max(limit, of_dynamo.accumulated_recompile_limit)
        with (
            of_dynamo.patch(recompile_limit=limit, accumulated_recompile_limit=in_all),
            inductor.patch(deterministic=exact),
        ):
            try:
                yield
            finally:
                self._remove()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """A block in which layers are plain, as a model is that trains as a whole."""
        held = [(layer, layer._compiled_call_impl) for layer in self._layers]
        self._remove()
        try:
            yield
        finally:
            for layer, compiled in held:
                layer._compiled_call_impl = compiled

    def give_up(self, error: BaseException) -> bool:
        """Go on without programs where an error is the compiler's; whether it is that.

        Of several processes all do, or the layers of one would wait for those of another.
        """
        if not self.is_on or self.processes.sharded:
            return False
        here = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        reasons = self.processes.collect(here if _is_of_compiler(error) else "")
        self.failure = next((reason for reason in reasons if reason), "")
        if not self.failure:
            return False
        self._remove()
        if self.processes.is_main:
            logger.warning("trainer.compile: goes on uncompiled, after %s", self.failure)
        return True

    def _remove(self) -> None:
        for layer in self._layers:
            layer._compiled_call_impl = None  # what nn.Module.compile sets, and nothing unsets

    def facts(self) -> dict[str, object]:
        """For the run record."""
        if self.mode == "none":
            return {}
        made = {"mode": self.mode, "unit": self.unit, "programs": _programs() - self._before}
        return {"compile": {**made, **({"failure": self.failure} if self.failure else {})}}


def _programs() -> int:
    """How many were made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _is_of_compiler(error: BaseException | None) -> bool:
    """Whether an error was raised in making a program."""
    if error is None:
        return False
    # Its errors have no class in common.
    own = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
    return own or _is_of_compiler(error.__cause__)


def _tensors(batch: Batch, within: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch and of mappings in it, by name."""
    for name, value in batch.items():
        if isinstance(value, Tensor):
            yield within + name, value
        elif isinstance(value, dict):
            yield from _tensors(value, f"{within}{name}.")


def _differing(batches: Sequence[Batch]) -> set[tuple[str, int]]:
    """(tensor, dimension) of what all have, where sizes differ."""
    sizes = [dict(_sizes(batch)) for batch in batches]
    places = set.intersection(*(set(each) for each in sizes))
    return {at for at in places if len({each[at] for each in sizes}) > 1}


def _sizes(batch: Batch) -> Iterator[tuple[tuple[str, int], int]]:
    for name, tensor in _tensors(batch):
        for dimension, size in enumerate(tensor.shape):
            yield (name, dimension), size
