"""The only training loop.

It knows steps, accumulation, precision, clipping, schedule, checkpoints, early stopping and
logging. What a batch is and what the loss is, a `Task` says.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.loader import Loader
from plumbline.loading.random import keyed_seed
from plumbline.loading.workers import LoaderError, naming_dead_workers
from plumbline.metrics.known import drop_undefined
from plumbline.models.weights import local, plain_tensors
from plumbline.tasks.base import Task
from plumbline.tracking.progress import progress
from plumbline.training.checkpoint import CheckpointStore, TrainingState, optimizer_tensors
from plumbline.training.clock import Best, Clock
from plumbline.training.config import TrainerConfig
from plumbline.training.evaluation import evaluate_loss
from plumbline.training.freeze import check_frozen, freeze, frozen_digests, set_training_mode
from plumbline.training.gpu import GpuFigures
from plumbline.training.history import FitResult, History, Row
from plumbline.training.length import check_patience, check_splits, epoch_ends
from plumbline.training.lone_samples import check_lone_samples
from plumbline.training.machine import Machine
from plumbline.training.optim import build_optimizer, describe_groups, set_lr
from plumbline.training.processes import PeerError, Processes
from plumbline.training.schedule import Plateau, lr_factor, resolve_warmup
from plumbline.training.sharding import ShardedLayers, gradient_norm
from plumbline.training.signals import StopRequest, WaitInterrupted
from plumbline.training.skipping import (
    FAILURES,
    Fault,
    failure,
    not_finite,
    skip_step,
    stop_text,
)
from plumbline.training.stopping import EarlyStopping, check_metrics
from plumbline.training.window import Buffers, Gradients, WindowSums

logger = logging.getLogger(__name__)

OnLog = Callable[[int, Mapping[str, float]], None]
"""(global_step, values): called once per optimiser step and validation."""


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
        fingerprint: str,
        frozen: Sequence[str] = (),
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
        self._machine, self._processes = machine, machine.processes
        freeze(model, frozen)
        self._frozen = list(frozen)
        self._frozen_before = frozen_digests(model, frozen)
        sharded = self._processes.sharded
        self._sharded = ShardedLayers(model, self._processes) if sharded else None
        self.model = model.to(machine.device)
        self._optimizer = build_optimizer(model, config.optim)
        self._scaler = torch.GradScaler(machine.device.type, enabled=machine.precision == "fp16")
        self._gradients = Gradients(self.model, task, machine, self._scaler)
        self._task, self._train, self._validation, self._config = task, train, validation, config
        self._validation_task = validation_task or task
        self.store, self._seed, self.fingerprint = store, seed, fingerprint
        self._on_log = on_log or (lambda step, values: None)
        self._skips = "skip" in (config.non_finite, config.failing_batch)
        ends = epoch_ends(train, config)
        self.total_steps = ends[-1]
        self._warmup = resolve_warmup(config.schedule, self.total_steps)
        check_patience(ends, config)
        check_lone_samples(self.model, task, train, len(ends), frozen=self._frozen, machine=machine)
        self.clock, self.best, self.history = Clock(), Best(), History()
        self._plateau, self._stopping = Plateau(), EarlyStopping(config)
        if config.validates:
            check_metrics(config, self._validation_task.known_metrics(), task.name)
        self._stop = StopRequest(self._processes.largest, alone=self._processes.count == 1)

    def fit(self) -> FitResult:
        """Train, or go on from the run's own checkpoint, and leave the best weights in the model.

        Raises:
            TrainingError: a step failed or was not finite, a frozen tensor changed, or a loader
                process died.
            SystemExit: a signal asked to stop; the state is saved first.
        """
        self._resume()
        gpu = GpuFigures(self._machine.device)
        shown = progress("training", self.total_steps, "steps", quiet=not self._processes.is_main)
        with naming_dead_workers(), self._stop, shown as update, self._saved_where_data_fails():
            update(self.clock.global_step, "")
            self._validate_within_epoch()  # where a run was stopped that waited in it
            # An epoch that was begun is ended too, also by a run killed in its last validation.
            while self.clock.micro_in_epoch or not self._finished():
                for window in self._windows():
                    loss = self._step(window)
                    update(self.clock.global_step, self._note(loss))
                    self._validate_within_epoch()
                    self._save_within_epoch()
                gpu.sample()
                self._end_epoch()
                self._stop.obey()
        if self._sharded:
            with self._processes.lockstep():
                self._sharded.join()
        frozen = check_frozen(self.model, self._frozen, self._frozen_before)
        if self._config.validates:
            if self.best.value is None:
                raise TrainingError(
                    f"trainer.monitor = {self._config.monitor!r}: not finite in any validation, so "
                    "no weights are best; look at the data and lower optim.lr"
                )
            if self._processes.is_main:
                self.store.load_best(self.model)
        facts = {
            "device": str(self._machine.device),
            "precision": self._machine.precision,
            "parameter_groups": describe_groups(self.model, self._config.optim),
            **gpu.facts(),
        }
        return FitResult(self.history, self.clock, self.best, frozen, facts)

    def _note(self, loss: float) -> str:
        """What stands beside the steps: the last loss, and what was last measured."""
        monitor = self._config.monitor
        measured = [row[monitor] for row in self.history.validations if monitor in row]
        beside = f", val {monitor} {measured[-1]:.4g}" if measured else ""
        return f"loss {loss:.4g}{beside}"

    @contextmanager
    def _saved_where_data_fails(self) -> Iterator[None]:
        """Save the state where no batch comes: the clock stands at the boundary of a step."""
        try:
            yield
        except WaitInterrupted:
            self._save(epoch_ended=0)
            self._stop.obey()
        except LoaderError:
            if self._processes.count == 1:
                self._save(epoch_ended=0)
            raise

    def _finished(self) -> bool:
        done = self.clock.global_step >= self.total_steps
        return done or self._stopping.stops or self.clock.epoch >= self._config.epochs

    def _windows(self) -> Iterator[list[Batch]]:
        """The rest of the epoch or of the training, in windows of `grad_accum_steps` batches."""
        batches = self._train.batches(self.clock.epoch, start=self.clock.micro_in_epoch)
        batches = self._stop.while_waiting(batches)
        while self.clock.global_step < self.total_steps and not self._stopping.stops:
            window = list(itertools.islice(batches, self._config.grad_accum_steps))
            if not window:
                return
            yield window

    def _step(self, window: list[Batch]) -> float:
        """One optimiser step over a window; returns its loss per target."""
        set_training_mode(self.model, self._frozen)
        factor = lr_factor(self._config.schedule, self.clock.global_step, self.total_steps)
        set_lr(self._optimizer, factor * self._plateau.share)
        self._optimizer.zero_grad(set_to_none=True)
        # A spoilt batch must not leave its mark on moving statistics either.
        buffers = Buffers(self.model) if self._skips else None
        sums = self._accumulate(window)
        self._pass_over(window)
        if isinstance(sums, Fault):
            self._skip(sums, window, buffers)
            return math.nan
        if sums.count and self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        norm = self._scale_and_clip(1 / max(sums.count, 1))
        loss = sums.total / max(sums.count, 1)
        self.clock.targets += sums.count
        if math.isfinite(loss) and math.isfinite(norm):
            if sums.count:  # a window without a target has no gradient, and is no step
                self._update_weights(window)
        elif self._scaler.is_enabled() and math.isfinite(loss):
            self._scaler.update()  # the gradients overflowed their scale: try the window's next
        else:
            self._skip(not_finite(loss, norm, self._config), window, buffers)
            if sums.count and self._scaler.is_enabled():
                self._scaler.update()
        self._record(sums, loss, norm)
        return loss

    def _pass_over(self, window: list[Batch]) -> None:
        samples = self._processes.sum([sum(len(batch["sample_index"]) for batch in window)])
        self.clock.pass_over(len(window), int(samples[0]))

    def _accumulate(self, window: list[Batch]) -> WindowSums | Fault:
        first = self.clock.micro_step
        # Each process draws its own dropout; a single one needs no number of its own.
        own = [self._processes.rank] if self._processes.rank else []
        seeds = [keyed_seed(self._seed, "step", first + i, *own) for i in range(len(window))]
        try:
            return self._gradients.accumulate(window, seeds)
        except FAILURES as error:
            fault = failure(error, window, self._config)
            if fault.stops:
                # Of a sharded model the others are within a layer, and cannot be asked.
                asked = Processes() if self._sharded else self._processes
                samples = asked.numbers(window)
                raise TrainingError(stop_text(fault, samples, self.clock)) from error
        # Only here has the error let go of the tensors that its traceback held.
        if self._machine.device.type == "cuda":
            torch.cuda.empty_cache()
        return fault

    def _update_weights(self, window: list[Batch]) -> None:
        try:
            with self._processes.agreed():
                self._scaler.step(self._optimizer)
        except (torch.OutOfMemoryError, PeerError) as error:
            fault = failure(error, window, self._config)
            samples = self._processes.numbers(window)
            raise TrainingError(stop_text(fault, samples, self.clock)) from error
        self._scaler.update()
        self.clock.global_step += 1

    def _scale_and_clip(self, scale: float) -> float:
        """Turn gradients of sums into those of the mean, clip them, return the norm before."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not gradients:
            return 0.0
        here = [local(gradient) for gradient in gradients]
        torch._foreach_mul_(here, scale)
        norm = gradient_norm(gradients, self._processes)
        if (limit := self._config.max_grad_norm) is not None:
            # The clamp and its small number as in torch's clip_grads_with_norm_.
            share = torch.clamp(limit / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(here, share.to(self._machine.device))
        return float(norm)

    def _skip(self, fault: Fault, window: list[Batch], buffers: Buffers | None) -> None:
        """Leave a window out, with the model as it was before it."""
        samples = self._processes.numbers(window)
        skip_step(fault, samples, self.clock, self.history, self._config)
        self._optimizer.zero_grad(set_to_none=True)
        if buffers is not None:
            buffers.restore()

    def _record(self, sums: WindowSums, loss: float, norm: float) -> None:
        clock = self.clock
        first = clock.micro_step - len(sums.micro)
        self.history.micro += [
            {
                "micro_step": first + i,
                "global_step": clock.global_step,
                "loss": micro_loss,
                "count": count,
            }
            for i, (micro_loss, count) in enumerate(sums.micro)
        ]
        row: Row = {
            "global_step": clock.global_step,
            "micro_step": clock.micro_step,
            "epoch": clock.epoch,
            "samples": clock.samples,
            "loss": loss,
            "lr": self._optimizer.param_groups[0]["lr"],
            "grad_norm": norm,
        }
        self.history.steps.append(row)
        self._on_log(clock.global_step, {f"train/{n}": row[n] for n in ("loss", "lr", "grad_norm")})

    def _due_by_steps(self) -> bool:
        every, step = self._config.validate_every_steps, self.clock.global_step
        return every is not None and step > 0 and step % every == 0

    def _validate_within_epoch(self) -> None:
        clock = self.clock
        if not self._due_by_steps() or clock.global_step >= self.total_steps:
            return
        if 0 < clock.micro_in_epoch < self._train.count(clock.epoch):  # else as the epoch's end
            self._validate()

    def _end_epoch(self) -> None:
        before = replace(self.clock)
        self.clock.epoch += 1
        self.clock.micro_in_epoch = 0
        every = self._config.validate_every_epochs
        last = self._config.validates and self._finished()
        if last or self._due_by_steps() or (every and self.clock.epoch % every == 0):
            try:
                self._validate()
            except (WaitInterrupted, LoaderError):
                self.clock = before  # who goes on from there validates first
                raise
        self._save(self.clock.epoch)

    def _validate(self) -> None:
        assert self._validation is not None
        done = self.history.validations
        if done and done[-1]["global_step"] == self.clock.global_step:
            return  # of these very weights
        task = self._validation_task
        with self._processes.lockstep():
            batches = self._stop.while_waiting(self._validation.batches(epoch=0))
            loss = evaluate_loss(self.model, task, batches, self._machine)
            of_split = self._processes.by_model(lambda: dict(task.validation_metrics(self.model)))
        measured = {"loss": loss, **task.loss_metrics(loss), **of_split}
        check_metrics(self._config, measured, self._task.name)
        metrics = drop_undefined(measured)
        clock = self.clock
        self.history.validations.append(
            {"global_step": clock.global_step, "epoch": clock.epoch, **metrics}
        )
        self._on_log(clock.global_step, {f"val/{name}": v for name, v in metrics.items()})
        value, mode = metrics.get(self._config.monitor, math.nan), self._config.direction
        schedule = self._config.schedule
        self._stopping.update(metrics)
        if schedule.name == "plateau" and clock.global_step >= self._warmup:
            self._plateau.update(value, mode, schedule)
        if self.best.update(value, mode, clock):
            best, weights = asdict(self.best), self._gathered(plain_tensors(self.model))
            self._processes.from_main(lambda: self.store.save_best(weights, best))

    def _save_within_epoch(self) -> None:
        every = self._config.checkpoint.every_steps
        if self._stop.requested() or (every and self.clock.global_step % every == 0):
            self._save(epoch_ended=0)
        self._stop.leave()

    def _save(self, epoch_ended: int) -> None:
        state = TrainingState(
            fingerprint=self.fingerprint,
            clock=asdict(self.clock),
            best=asdict(self.best),
            history=self.history.state(),
            scaler=self._scaler.state_dict(),
            plateau=asdict(self._plateau),
            stopping=self._stopping.state(),
        )
        weights = self._gathered(plain_tensors(self.model))
        moments = self._gathered(optimizer_tensors(self._optimizer))
        self._processes.from_main(lambda: self.store.save(weights, moments, state, epoch_ended))

    def _gathered(self, tensors: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Whole tensors for the main process to write; the others help where they hold parts."""
        if not (self._processes.is_main or self._sharded):
            return {}
        keep = self._processes.is_main
        with self._processes.lockstep():
            # The others let go of each at once.
            return {name: tensor for name, tensor in tensors if keep}

    def _resume(self) -> None:
        latest = self.store.latest()
        if latest is None:
            if self._processes.is_main and (other := self.store.nearest_other()):
                logger.info("starting anew: %s", other)
            return
        state = self.store.restore(latest, self.model, self._optimizer)
        self.clock, self.best = Clock(**state.clock), Best(**state.best)
        self._plateau = Plateau(**state.plateau)
        self._stopping.load_state(state.stopping)
        self.history = History.from_state(state.history)
        self._scaler.load_state_dict(state.scaler)
        logger.info("resuming after optimiser step %d", self.clock.global_step)
