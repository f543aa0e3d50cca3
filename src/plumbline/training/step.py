"""One optimiser step: the gradients of a window of batches, clipped, and the update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.random import keyed_seed
from plumbline.training.compilation import Compilation
from plumbline.training.config import TrainerConfig
from plumbline.training.engine import Engine
from plumbline.training.freeze import TrainingMode
from plumbline.training.history import Row
from plumbline.training.machine import Machine
from plumbline.training.optim import can_be_held, hold, set_lr
from plumbline.training.processes import PeerError, Processes
from plumbline.training.progress import OnLog, Progress
from plumbline.training.schedule import lr_factor
from plumbline.training.skipping import (
    FAILURES,
    Fault,
    failure,
    not_finite,
    skip_step,
    stop_text,
)
from plumbline.training.splitting import split_further
from plumbline.training.window import Buffers, Gradients, UnreadSums, WindowSums


@dataclass(frozen=True)
class Pending:
    """A step whose numbers the host has not waited for."""

    sums: UnreadSums
    norm: Tensor
    """[] of the gradients, before they are clipped."""
    window: Sequence[Batch]
    lengths: Sequence[int]
    """How many micro-batches each batch of it was cut into."""
    buffers: Buffers
    """Of the model as they were before it."""
    row: Row
    """What is known of it: how far the training has come with it, and its rate."""


@dataclass(frozen=True)
class OptimizerStep:
    """Makes the steps of one training; what each was, it writes to clock, history and log.

    On a GPU the host reads what a step came to while the device makes the passes of the next one:
    whether its numbers are finite the device finds itself, and changes nothing where they are not.
    """

    gradients: Gradients
    """Of the model that is trained, by the loss of its task."""
    engine: Engine
    """Makes the updates."""
    config: TrainerConfig
    progress: Progress
    on_log: OnLog
    total_steps: int
    """Of the whole training: how far the schedule reaches."""
    seed: int
    frozen: Sequence[str]
    """Parts of the model that stay as they are."""
    compilation: Compilation
    """Of what the gradients are made by."""
    pending: list[Pending] = field(default_factory=list)
    """The step that the device may still be making, if there is one."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.gradients.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose learning rates are set."""
        return self.engine.optimizer

    @property
    def machine(self) -> Machine:
        """What it is trained on."""
        return self.gradients.machine

    @cached_property
    def _mode(self) -> TrainingMode:
        return TrainingMode(self.model, self.frozen)

    @property
    def lags(self) -> bool:
        """Whether the numbers of a step are read one step late."""
        alone = self.machine.processes.count == 1 and not self.gradients.scaler.is_enabled()
        return self.machine.device.type == "cuda" and alone and can_be_held(self.optimizer)

    def __call__(self, batches: Sequence[Sequence[Batch]]) -> bool:
        """Make one step over a window; a failure or what is not finite is skipped where set so.

        Args:
            batches: of the step, each in its micro-batches.

        Returns:
            False where the window is to be tried again: in micro-batches of the size that the
            progress now says, or uncompiled.

        Raises:
            TrainingError: the step, or the one before it, cannot be made, and the settings do not
                say to skip it.
        """
        self._mode.enter()
        self.engine.forget()
        window = [micro_batch for batch in batches for micro_batch in batch]
        # A spoilt batch must not leave its mark on moving statistics either.
        buffers = Buffers(self.model)
        sums = self._accumulate(batches, window)
        self.settle()
        if sums is None:
            self._undo(buffers)
            return False
        self._pass_over(len(batches), window)
        if isinstance(sums, Fault):
            self._skip(sums, window)
            self._undo(buffers)
            return True
        # Only now is it known how many steps were made.
        clock = self.progress.clock
        factor = lr_factor(self.config.schedule, clock.global_step, self.total_steps)
        set_lr(self.optimizer, factor * self.progress.plateau.share)
        norm = self._scale_and_clip(sums)
        lengths, row = [len(batch) for batch in batches], self._row()
        self.pending.append(Pending(sums, norm, window, lengths, buffers, row))
        if not self.lags:
            self.settle()
            return True
        finite = sums.total.isfinite() & norm.isfinite()
        buffers.restore_unless(finite)
        hold(self.optimizer, ~finite | (sums.count == 0))
        self._update_weights(window)
        return True

    def settle(self) -> None:
        """Wait for the numbers of the step that is pending, and write down what it was.

        Raises:
            TrainingError: it was not finite, and the settings say to stop.
        """
        if not self.pending:
            return
        step, scaler = self.pending.pop(), self.gradients.scaler
        sums, norm = step.sums.read(), float(step.norm)
        loss = sums.total / max(sums.count, 1)
        self.progress.clock.targets += sums.count
        if math.isfinite(loss) and math.isfinite(norm):
            if sums.count:  # a window without a target has no gradient, and is no step
                if not self.lags:
                    self._update_weights(step.window)
                self.progress.clock.global_step += 1
        elif scaler.is_enabled() and math.isfinite(loss):
            scaler.update()  # the gradients overflowed their scale: try the window's next
        else:
            self._skip(not_finite(loss, norm, self.config), step.window)
            if not self.lags:  # else the device has, and the gradients are the next step's
                self._undo(step.buffers)
            if sums.count and scaler.is_enabled():
                scaler.update()
        self._record(step, sums.joined(step.lengths), loss, norm)

    def _row(self) -> Row:
        clock = self.progress.clock
        return {
            "micro_step": clock.micro_step,
            "epoch": clock.epoch,
            "samples": clock.samples,
            "lr": self.optimizer.param_groups[0]["lr"],  # parts may have others, by fixed ratios
        }

    def make_programs(self, pieces: Sequence[Batch]) -> None:
        """Have the passes compiled, by making some that leave nothing behind.

        Args:
            pieces: the micro-batches of the largest batch.
        """
        self._mode.enter()
        # Losses of several micro-batches at once are made otherwise than those of one.
        window = (list(pieces) * self.config.grad_accum_steps)[:2]
        buffers = Buffers(self.model)
        try:
            self.gradients.accumulate(window, [0] * len(window))
        except FAILURES as error:
            self._is_of_compiler(error)  # what else is wrong, a step of its own tells
        self._undo(buffers)

    def _is_of_compiler(self, error: BaseException) -> bool:
        """Go on uncompiled where an error is the compiler's, also in a run that is resumed."""
        given_up = self.compilation.give_up(error)
        self.progress.uncompiled = self.compilation.failure
        return given_up

    def _pass_over(self, batches: int, window: Sequence[Batch]) -> None:
        """Count the window's samples as used before it can fail: a resumed run begins after it."""
        here = sum(len(batch["sample_index"]) for batch in window)
        samples = self.machine.processes.sum([here])
        self.progress.clock.pass_over(batches, int(samples[0]))

    def _accumulate(
        self, batches: Sequence[Sequence[Batch]], window: Sequence[Batch]
    ) -> UnreadSums | Fault | None:
        """Add up the gradients of a window: in `.grad` those of the sum, not yet of the mean.

        Args:
            batches: of the step, each in its micro-batches.
            window: the micro-batches of all of them.

        Returns:
            None where the window is to be made again, smaller micro-batches or uncompiled.
        """
        processes = self.machine.processes
        first = self.progress.clock.micro_step
        # Each process draws its own dropout, and so does each micro-batch of a batch.
        seeds = [
            keyed_seed(self.seed, "step", first + i, processes.rank, j)
            for i, batch in enumerate(batches)
            for j in range(len(batch))
        ]
        fault: Fault | None
        try:
            return self.gradients.add(window, seeds)
        except FAILURES as error:
            self.settle()  # what is said below counts the steps that were made
            fault = failure(error, window, self.config)
            smaller = partial(split_further, error, window, self.gradients, self.config)
            if self._is_of_compiler(error) or smaller(self.progress):
                fault = None
            elif fault.stops:
                # Of a sharded model the others are within a layer, and cannot be asked.
                asked = Processes() if processes.sharded else processes
                samples = asked.numbers(window)
                raise TrainingError(stop_text(fault, samples, self.progress.clock)) from error
        # Only here has the error let go of the tensors that its traceback held.
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()
        return fault

    def _scale_and_clip(self, sums: UnreadSums) -> Tensor:
        """Turn gradients of sums into those of the mean, clip them, return the norm [] before."""
        scaler = self.gradients.scaler
        if scaler.is_enabled() and int(sums.count):
            # Before the norm, which clipping compares with a limit of true gradients.
            scaler.unscale_(self.optimizer)
        return self.engine.scale_and_clip(sums.total, sums.count)

    def _update_weights(self, window: Sequence[Batch]) -> None:
        """Let the optimiser step; all processes do, or none goes on."""
        try:
            with self.machine.processes.agreed():
                self.engine.update(self.gradients.scaler)
        except (torch.OutOfMemoryError, PeerError) as error:
            # Never skipped: some of the weights may have been updated already.
            fault = failure(error, window, self.config)
            samples = self.machine.processes.numbers(window)
            raise TrainingError(stop_text(fault, samples, self.progress.clock)) from error
        self.gradients.scaler.update()

    def _skip(self, fault: Fault, window: Sequence[Batch]) -> None:
        """Leave a window out."""
        samples = self.machine.processes.numbers(window)
        skip_step(fault, samples, self.progress.clock, self.progress.history, self.config)

    def _undo(self, buffers: Buffers) -> None:
        """Take back what a window that made no step has left in the model."""
        self.engine.forget()
        buffers.restore()

    def _record(self, step: Pending, sums: WindowSums, loss: float, norm: float) -> None:
        """Write the step and its batches to the history, and the step to the log."""
        clock, history = self.progress.clock, self.progress.history
        first = int(step.row["micro_step"]) - len(sums.micro)  # it had passed over the window
        history.micro += [
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
            **{name: step.row[name] for name in ("micro_step", "epoch", "samples")},
            "loss": loss,
            "lr": step.row["lr"],
            "grad_norm": norm,
        }
        history.steps.append(row)
        self.on_log(clock.global_step, {f"train/{n}": row[n] for n in ("loss", "lr", "grad_norm")})
