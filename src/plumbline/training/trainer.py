"""The only training loop: restore, then epochs of steps, validate, save, stop.

It knows no kind of work: what a batch is and what the loss is, a `Task` says.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.loader import Loader
from plumbline.loading.workers import LoaderError, naming_dead_workers
from plumbline.registry import load_attribute
from plumbline.tracking.progress import progress
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.checkpointing import Checkpointing
from plumbline.training.compilation import Compilation
from plumbline.training.config import TrainerConfig
from plumbline.training.engine import Engine
from plumbline.training.engine_config import ENGINES
from plumbline.training.freeze import check_frozen, freeze, frozen_digests
from plumbline.training.gpu import GpuFigures
from plumbline.training.history import FitResult
from plumbline.training.length import check_patience, check_splits, epoch_ends
from plumbline.training.lone_samples import check_lone_samples
from plumbline.training.machine import Machine
from plumbline.training.optim import describe_groups
from plumbline.training.progress import OnLog, Progress
from plumbline.training.saving import Saving
from plumbline.training.schedule import resolve_warmup
from plumbline.training.signals import StopRequest, WaitInterrupted
from plumbline.training.step import OptimizerStep
from plumbline.training.stopping import check_metrics
from plumbline.training.task import Task
from plumbline.training.validation import Validation
from plumbline.training.window import Gradients


class Trainer:
    """One training of one model; `fit` runs it to its end or continues it."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: Loader,
        validation: Loader | None,
        config: TrainerConfig,
        machine: Machine,
        *,
        store: CheckpointStore,
        seed: int,
        frozen: Sequence[str] = (),
        frozen_base: Sequence[str] = (),
        validation_task: Task | None = None,
        on_log: OnLog | None = None,
    ) -> None:
        """Bind everything and check that it fits together.

        Raises:
            ConfigError: nothing to train on, validation asked for without data, a warm-up or
                patience longer than the training, a frozen or tuned part that does not exist, a
                batch too small for the model's norms, or a metric that the task does not measure.
        """
        check_splits(train, validation, config)
        self._train, self._config, self._machine, self.store = train, config, machine, store
        freeze(model, frozen)
        self._frozen, self._frozen_base = list(frozen), list(frozen_base)
        self._frozen_before = frozen_digests(model, frozen, frozen_base)
        self._engine, self.model = _engine(model, config, machine), model
        self._checkpointing = Checkpointing(model) if config.gradient_checkpointing else None
        # bf16 has the range of fp32, so that small gradients do not become 0 in it.
        scaler = torch.GradScaler(machine.device.type, enabled=machine.precision == "fp16")
        ends = epoch_ends(train, config)
        self.total_steps = ends[-1]
        self._warmup = resolve_warmup(config.schedule, self.total_steps)
        check_patience(ends, config)
        self.progress = Progress(config)
        size = self.progress.micro_batch_size
        check_lone_samples(self.model, task, train, len(ends), size, frozen=frozen, machine=machine)
        measuring = validation_task or task
        if config.validates:
            check_metrics(config, measuring.known_metrics(), task.name)
        self._stop = StopRequest(machine.processes.largest, alone=machine.processes.count == 1)
        log = on_log or (lambda step, values: None)
        self._compilation = Compilation(machine.compile, config.compile, machine.processes)
        compiled = self._engine.applied(self._compiled(task))
        ways = self._engine.backward, self._engine.gradient_sum
        gradients = Gradients(self.model, compiled, machine, scaler, *ways)
        self._step = OptimizerStep(
            *(gradients, self._engine, config, self.progress, log, self.total_steps, seed),
            *(self._frozen, self._compilation),
        )
        seen = (self._engine.applied(measuring), validation, config, machine)
        self._validation = Validation(self.model, *seen, self.progress, self._stop, log)
        state = (self._engine, scaler, self.progress)
        self._saving = Saving(store, *state, machine.processes, config.checkpoint)

    def _compiled(self, task: Task) -> Task:
        return self._compilation.apply(self.model, task)

    def fit(self) -> FitResult:
        """Train, or go on from the run's own checkpoint, and leave the best weights in the model.

        Raises:
            TrainingError: a step failed or was not finite, a frozen tensor changed, or a loader
                process died.
            SystemExit: a signal asked to stop; the state is saved first.
        """
        self._saving.resume()
        self._compilation.failure = self.progress.uncompiled
        gpu, clock = GpuFigures(self._machine.device), self.progress.clock
        quiet = not self._machine.processes.is_main
        shown = progress("training", self.total_steps, "steps", quiet=quiet)
        saved = self._saving.to_the_end(self._stop)
        running, loading = self._compilation.running(), self._keeping_workers()
        with naming_dead_workers(), running, self._stop, shown as show, saved, loading:
            show(clock.global_step, "")
            self._validate_within_epoch()  # where a run was stopped that waited in it
            # An epoch that was begun is ended too, also by a run killed in its last validation.
            while clock.micro_in_epoch or not self._finished():
                for window in self._windows():
                    if not self._step(window):
                        continue
                    show(clock.global_step, self._note())
                    if self._step.pending and not self._something_is_due():
                        continue
                    self._step.settle()
                    self._validate_within_epoch()
                    self._saving.within_epoch(self._stop)
                gpu.sample()
                self._end_epoch()
                self._stop.obey()
        return self._result(gpu)

    @contextmanager
    def _keeping_workers(self) -> Iterator[None]:
        with ExitStack() as stack:
            for loader in (self._train, self._validation.loader):
                if loader is not None:
                    stack.enter_context(loader.keeping_workers())
            yield

    def _windows(self) -> Iterator[list[list[Batch]]]:
        """The rest of the epoch or of the training, in windows of `grad_accum_steps` batches."""
        clock, batches = self.progress.clock, None
        while clock.global_step < self.total_steps and not self.progress.stopping.stops:
            if batches is None:
                batches = self._rest_of_epoch(self.progress.micro_batch_size)
            # Micro-batches as in `collate`, of which [batch, ...] is this process's share.
            try:
                window = list(itertools.islice(batches, self._config.grad_accum_steps))
            except (WaitInterrupted, LoaderError):
                self._step.settle()  # the state will be saved
                raise
            if not window:
                return
            before = clock.micro_step
            yield window
            if clock.micro_step == before:
                batches = None  # it was not used, and is to be made again

    def _rest_of_epoch(self, size: int | None) -> Iterator[list[Batch]]:
        clock = self.progress.clock
        if self._compilation.wants_programs(size):  # of this size alone, whatever was before
            self._compilation.see(*self._train.examples(size))
            self._step.make_programs(self._train.largest(size))
        # A batch is a function of epoch and position alone: a resumed epoch begins in its midst.
        batches = self._train.micro_batches(clock.epoch, start=clock.micro_in_epoch, size=size)
        return self._stop.while_waiting(batches)

    def _something_is_due(self) -> bool:
        """Whether the steps may have to be counted now, the pending one among them."""
        config, step = self._config, self.progress.clock.global_step + 1
        every = (config.validate_every_steps, config.checkpoint.every_steps)
        due = step >= self.total_steps or any(number and step % number == 0 for number in every)
        return due or self._saving.presses() or self._stop.requested()

    def _finished(self) -> bool:
        clock = self.progress.clock
        done = clock.global_step >= self.total_steps or clock.epoch >= self._config.epochs
        return done or self.progress.stopping.stops

    def _validate_within_epoch(self) -> None:
        clock = self.progress.clock
        if not self._validation.is_due_by_steps() or clock.global_step >= self.total_steps:
            return
        if 0 < clock.micro_in_epoch < self._train.count(clock.epoch):  # else as the epoch's end
            self._validate()

    def _end_epoch(self) -> None:
        """Count the epoch, validate where that is due, and save: the next one may be killed."""
        self._step.settle()
        clock = self.progress.clock
        before = clock.epoch, clock.micro_in_epoch
        clock.epoch += 1
        clock.micro_in_epoch = 0
        due = self._validation.is_due_by_steps() or self._validation.is_due_by_epochs()
        if due or (self._config.validates and self._finished()):
            try:
                self._validate()
            except (WaitInterrupted, LoaderError):
                clock.epoch, clock.micro_in_epoch = before  # who goes on from there validates first
                raise
        self._saving.save(clock.epoch)

    def _validate(self) -> None:
        with self._compilation.set_aside():
            metrics = self._validation.measure()
        if metrics is not None and self.progress.take(metrics, self._config, self._warmup):
            self._saving.save_best()

    def _note(self) -> str:
        """What stands beside the steps: the last loss, and what was last measured."""
        monitor, history = self._config.monitor, self.progress.history
        losses = [row["loss"] for row in history.steps[-1:]]
        measured = [row[monitor] for row in history.validations if monitor in row][-1:]
        shown = [f"loss {value:.4g}" for value in losses]
        return ", ".join(shown + [f"val {monitor} {value:.4g}" for value in measured])

    def _result(self, gpu: GpuFigures) -> FitResult:
        """Make the model plain and whole, prove what was frozen, and load the best weights."""
        if self._checkpointing:
            self._checkpointing.remove()
        self._engine.join()
        # Of the last weights: the best ones are loaded after it.
        unchanged = check_frozen(self.model, self._frozen, self._frozen_before, self._frozen_base)
        done = self.progress
        if self._config.validates:
            if done.best.value is None:
                raise TrainingError(
                    f"trainer.monitor = {self._config.monitor!r}: not finite in any validation, so "
                    "no weights are best; look at the data and lower optim.lr"
                )
            # The others publish nothing and end with the last weights.
            if self._machine.processes.is_main:
                self.store.load_best(self.model)
        facts = {
            "device": str(self._machine.device),
            "precision": self._machine.precision,
            "micro_batch_size": done.micro_batch_size,
            **self._engine.facts(),
            **self._compilation.facts(),
            "parameter_groups": describe_groups(self.model, self._config.optim),
            **gpu.facts(),
        }
        return FitResult(done.history, done.clock, done.best, unchanged, facts)


def _engine(model: nn.Module, config: TrainerConfig, machine: Machine) -> Engine:
    """What the settings name, over a model."""
    build: type[Engine] = load_attribute(ENGINES[config.engine.name])
    return build(model, config, machine)
