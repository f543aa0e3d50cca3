"""The only training loop.

It knows steps, accumulation, precision, clipping, schedule, checkpoints, early stopping and
logging. What a batch is and what the loss is, a `Task` says.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import ConfigError, TrainingError
from plumbline.loading.loader import Loader
from plumbline.loading.random import keyed_seed
from plumbline.models.device import autocast, resolve_device, resolve_precision
from plumbline.tasks.base import Task
from plumbline.training.checkpoint import CheckpointStore, TrainingState
from plumbline.training.config import TrainerConfig
from plumbline.training.evaluation import evaluate_loss, to_device
from plumbline.training.freeze import check_frozen, freeze, frozen_digests, set_training_mode
from plumbline.training.history import History, Row
from plumbline.training.optim import build_optimizer, set_lr
from plumbline.training.progress import training_progress
from plumbline.training.schedule import lr_factor, resolve_warmup
from plumbline.training.signals import StopRequest

logger = logging.getLogger(__name__)

OnLog = Callable[[int, Mapping[str, float]], None]
"""(global_step, values): called once per optimiser step and validation."""


@dataclass
class Clock:
    """The one count of progress; schedule, log, checkpoint and early stopping all read it."""

    epoch: int = 0
    """Epochs begun and not ended, counted from 0."""
    micro_in_epoch: int = 0
    """Micro-batches of this epoch already used."""
    micro_step: int = 0
    """Micro-batches used so far."""
    global_step: int = 0
    """Optimiser updates made so far."""
    samples: int = 0
    skipped: int = 0
    """Optimiser steps left out because loss or gradient was not finite."""


@dataclass
class Best:
    """The best validation so far; only a finite value is best, and of equals the first stays."""

    value: float | None = None
    global_step: int = 0
    epoch: int = 0
    since: int = 0
    """Validations since the last change of at least `min_change` for the better."""
    anchor: float | None = None
    """The value of that change."""

    def update(self, value: float, mode: str, min_change: float, clock: Clock) -> bool:
        """Take a new value; true when it is the best so far, by however little."""
        if not math.isfinite(value):
            self.since += 1
            return False
        sign = 1 if mode == "max" else -1
        if self.anchor is None or sign * (value - self.anchor) > min_change:
            self.anchor, self.since = value, 0
        else:
            self.since += 1
        if self.value is not None and sign * (value - self.value) <= 0:
            return False
        self.value = value
        self.global_step, self.epoch = clock.global_step, clock.epoch
        return True


@dataclass(frozen=True)
class FitResult:
    """What a finished training has to say; the model itself holds the best weights."""

    history: History
    clock: Clock
    best: Best
    frozen_tensors: int
    facts: dict[str, Any] = field(default_factory=dict)
    """Device, precision and the like: for the run record, not for outputs."""


class Trainer:
    """One training of one model; `fit` runs it to its end or continues it."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: Loader,
        validation: Loader | None,
        config: TrainerConfig,
        *,
        store: CheckpointStore,
        seed: int,
        fingerprint: str,
        frozen: Sequence[str] = (),
        on_log: OnLog | None = None,
    ) -> None:
        """Bind everything and check that it fits together.

        Raises:
            ConfigError: nothing to train on, validation asked for without data, a warm-up longer
                than the training, a frozen or tuned part that does not exist.
        """
        if not len(train):
            raise ConfigError("no training sample: nothing in the train split fits the task")
        if config.validate_every_epochs and not (validation and len(validation)):
            raise ConfigError(
                "trainer.validate_every_epochs: no validation sample; give the dataset a "
                "validation split, or set it to 0 to train without"
            )
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        freeze(model, frozen)
        self.model = model.to(self.device)
        self._frozen = list(frozen)
        self._frozen_before = frozen_digests(model, frozen)
        self._optimizer = build_optimizer(model, config.optim)
        self._scaler = torch.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._task, self._train, self._validation, self._config = task, train, validation, config
        self._store, self._seed, self._fingerprint = store, seed, fingerprint
        self._on_log = on_log or (lambda step, values: None)
        steps_per_epoch = math.ceil(len(train) / config.grad_accum_steps)
        self.total_steps = min(config.epochs * steps_per_epoch, config.max_steps or 10**12)
        resolve_warmup(config.schedule, self.total_steps)
        self.clock, self.best, self.history = Clock(), Best(), History()

    def fit(self) -> FitResult:
        """Train, or go on from the run's own checkpoint, and leave the best weights in the model.

        Raises:
            TrainingError: a loss was not finite, or a frozen tensor changed.
            SystemExit: a signal asked to stop; the state is saved first.
        """
        self._resume()
        with StopRequest() as stop, training_progress(self.total_steps) as progress:
            progress(self.clock.global_step, None)
            # An epoch that was begun is ended too, also by a run killed in its last validation.
            while self.clock.micro_in_epoch or not self._finished():
                for window in self._windows():
                    loss = self._step(window)
                    progress(self.clock.global_step, loss)
                    self._save_within_epoch(stop)
                self._end_epoch()
                stop.leave()
        frozen = check_frozen(self.model, self._frozen, self._frozen_before)
        if self._config.validate_every_epochs:
            if self.best.value is None:
                raise TrainingError(
                    f"trainer.monitor = {self._config.monitor!r}: not finite in any validation, so "
                    "no weights are best; look at the data and lower optim.lr"
                )
            self._store.load_best(self.model)
        facts = {"device": str(self.device), "precision": self.precision}
        return FitResult(self.history, self.clock, self.best, frozen, facts)

    def _finished(self) -> bool:
        stopping = self._config.early_stopping
        if stopping is not None and self.best.since >= stopping.patience:
            return True
        done = self.clock.global_step >= self.total_steps
        return done or self.clock.epoch >= self._config.epochs

    def _windows(self) -> Iterator[list[Batch]]:
        """The rest of the epoch or of the training, in windows of `grad_accum_steps` batches."""
        batches = self._train.batches(self.clock.epoch, start=self.clock.micro_in_epoch)
        while self.clock.global_step < self.total_steps:
            window = list(itertools.islice(batches, self._config.grad_accum_steps))
            if not window:
                return
            yield window

    def _step(self, window: list[Batch]) -> float:
        """One optimiser step over a window; returns its loss per target."""
        # Dropout and the like depend on the step alone, so a resumed run needs no generator state.
        torch.manual_seed(keyed_seed(self._seed, "step", self.clock.micro_step))
        set_training_mode(self.model, self._frozen)
        factor = lr_factor(self._config.schedule, self.clock.global_step, self.total_steps)
        set_lr(self._optimizer, factor)
        self._optimizer.zero_grad(set_to_none=True)
        totals, counts = self._accumulate(window)
        count = sum(counts)
        if count and self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        norm = self._scale_and_clip(1 / max(count, 1))
        self.clock.micro_in_epoch += len(window)
        self.clock.micro_step += len(window)
        self.clock.samples += sum(len(batch["sample_index"]) for batch in window)
        loss = sum(totals) / max(count, 1)
        if math.isfinite(loss) and math.isfinite(norm):
            if count:  # a window without a target has no gradient, and is no step
                self._scaler.step(self._optimizer)
                self._scaler.update()
                self.clock.global_step += 1
        elif self._scaler.is_enabled() and math.isfinite(loss):
            self._scaler.update()  # the gradients overflowed their scale: try the window's next
        else:
            self._skip(window, loss, norm)
        self._record(totals, counts, loss, norm)
        return loss

    def _accumulate(self, window: list[Batch]) -> tuple[list[float], list[int]]:
        """Add up the gradients of the sums; returns the sum and count of each micro-batch."""
        totals: list[Tensor] = []
        counts: list[Tensor] = []
        for batch in window:
            with autocast(self.device, self.precision):
                loss = self._task.loss(self.model, to_device(batch, self.device))
            if loss.total.requires_grad:
                self._scaler.scale(loss.total).backward()
            totals.append(loss.total.detach())
            counts.append(loss.count)
        return [float(t) for t in totals], [int(c) for c in counts]

    def _scale_and_clip(self, scale: float) -> float:
        """Turn gradients of sums into those of the mean, clip them, return the norm before."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if not parameters:
            return 0.0
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], scale)
        limit = self._config.max_grad_norm
        return float(nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))

    def _skip(self, window: list[Batch], loss: float, norm: float) -> None:
        self.clock.skipped += 1
        samples = [int(i) for batch in window for i in batch["sample_index"]]
        where = (
            f"optimiser step {self.clock.global_step}: loss {loss}, gradient norm {norm}; "
            f"samples {samples[:8]}{' ...' if len(samples) > 8 else ''}"
        )
        if self._config.non_finite == "stop":
            raise TrainingError(
                f"{where}; lower optim.lr, look at these samples, or set trainer.non_finite: skip"
            )
        if self.clock.skipped > self._config.max_skipped_steps:
            raise TrainingError(
                f"{where}; more than {self._config.max_skipped_steps} skipped steps"
            )
        self._scaler.update()
        logger.warning("skipped %s", where)

    def _record(self, totals: list[float], counts: list[int], loss: float, norm: float) -> None:
        clock = self.clock
        first = clock.micro_step - len(totals)
        self.history.micro += [
            {
                "micro_step": first + i,
                "global_step": clock.global_step,
                "loss": total / max(count, 1),
                "count": count,
            }
            for i, (total, count) in enumerate(zip(totals, counts, strict=True))
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

    def _end_epoch(self) -> None:
        self.clock.epoch += 1
        self.clock.micro_in_epoch = 0
        every = self._config.validate_every_epochs
        last = self.clock.epoch == self._config.epochs or self._finished()
        if every and (self.clock.epoch % every == 0 or last):
            self._validate()
        self._save(self.clock.epoch)

    def _validate(self) -> None:
        assert self._validation is not None
        loss = evaluate_loss(self.model, self._task, self._validation, self.device, self.precision)
        metrics = {"loss": loss, **self._task.validation_metrics(self.model)}
        if self._config.monitor not in metrics:
            raise ConfigError(
                f"trainer.monitor = {self._config.monitor!r}: not a validation metric of task "
                f"{self._task.name}; there is {', '.join(metrics)}"
            )
        clock = self.clock
        self.history.validations.append(
            {"global_step": clock.global_step, "epoch": clock.epoch, **metrics}
        )
        self._on_log(clock.global_step, {f"val/{name}": v for name, v in metrics.items()})
        logger.info("epoch %d: %s", clock.epoch, {n: round(v, 4) for n, v in metrics.items()})
        stopping = self._config.early_stopping
        change = stopping.min_change if stopping else 0.0
        if self.best.update(metrics[self._config.monitor], self._config.mode, change, clock):
            self._store.save_best(self.model, asdict(self.best))

    def _save_within_epoch(self, stop: StopRequest) -> None:
        every = self._config.checkpoint.every_steps
        if stop.requested or (every and self.clock.global_step % every == 0):
            self._save(epoch_ended=0)
        stop.leave()

    def _save(self, epoch_ended: int) -> None:
        state = TrainingState(
            fingerprint=self._fingerprint,
            clock=asdict(self.clock),
            best=asdict(self.best),
            history=self.history.state(),
            scaler=self._scaler.state_dict(),
        )
        self._store.save(self.model, self._optimizer, state, epoch_ended)

    def _resume(self) -> None:
        latest = self._store.latest()
        if latest is None:
            return
        state = self._store.restore(latest, self.model, self._optimizer)
        self.clock, self.best = Clock(**state.clock), Best(**state.best)
        self.history = History.from_state(state.history)
        self._scaler.load_state_dict(state.scaler)
        logger.info("resuming after optimiser step %d", self.clock.global_step)
