"""Steps that cannot be made: stop with one line that names the place, or leave them out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from plumbline.batch import Batch
from plumbline.errors import TrainingError
from plumbline.loading.workers import refuse_dead_worker
from plumbline.training.clock import Clock
from plumbline.training.config import TrainerConfig
from plumbline.training.history import History

logger = logging.getLogger(__name__)

FAILURES = (RuntimeError, ValueError, IndexError, MemoryError)
"""What a batch can raise in a loss or its gradient: shapes, values, numbers beyond a table, memory.

Errors of ours (`PlumblineError`) are about settings and are no batch's fault.
"""


@dataclass(frozen=True)
class Fault:
    """Why a window makes no step."""

    reason: str
    remedy: str
    stops: bool
    """Whether it ends the training, by setting."""


def not_finite(loss: float, norm: float, config: TrainerConfig) -> Fault:
    """The fault of a loss or a gradient that is not a finite number."""
    return Fault(
        f"loss {loss}, gradient norm {norm}",
        "lower optim.lr, look at these samples, or set trainer.non_finite: skip",
        config.non_finite == "stop",
    )


def failure(error: BaseException, window: Sequence[Batch], config: TrainerConfig) -> Fault:
    """The fault of an error in the loss or the backward pass.

    Raises:
        TrainingError: it is the death of a loader process, which only came up here.
    """
    refuse_dead_worker(error)
    stops = config.failing_batch == "stop"
    if is_out_of_memory(error):
        size = max(len(batch["sample_index"]) for batch in window)
        remedy = (
            f"set trainer.micro_batch_size below {size}, or trainer.gradient_checkpointing: true"
            if size > 1
            else "one sample alone does not fit: set trainer.gradient_checkpointing: true, cut "
            "samples shorter or take a smaller model"
        )
        return Fault("out of memory", remedy, stops)
    # Errors of CUDA and of shapes run over many lines, and this is one of a log.
    text = " ".join(str(error).split())[:300]
    if "does not have a deterministic implementation" in text:
        return Fault(
            text.partition(", but you set")[0],
            "trainer.deterministic: false lets it run, with other last digits each time",
            stops=True,
        )
    return Fault(
        f"{type(error).__name__}: {text}",
        "look at these samples, or set trainer.failing_batch: skip",
        stops,
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that there is not enough memory, on whatever device."""
    # On a CPU torch raises a plain RuntimeError, which only its text tells apart.
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    # Of another process only the text is known.
    return known or any(words in str(error) for words in ("can't allocate memory", "out of memory"))


def _place(fault: Fault, samples: Sequence[int], clock: Clock) -> str:
    shown = f"{samples[:8]}{' ...' if len(samples) > 8 else ''}"
    return f"optimiser step {clock.global_step}: {fault.reason}; samples {shown}"


def stop_text(fault: Fault, samples: Sequence[int], clock: Clock) -> str:
    """The one line of an error that ends the training."""
    return f"{_place(fault, samples, clock)}; {fault.remedy}"


def skip_step(
    fault: Fault, samples: Sequence[int], clock: Clock, history: History, config: TrainerConfig
) -> None:
    """Count a window that makes no step and put it on record.

    Args:
        fault: what is wrong with it.
        samples: the numbers of its samples, which the clock has passed over.
        clock: counts it.
        history: gets a row of `skipped`.
        config: says what to do and how often.

    Raises:
        TrainingError: the setting says to stop, or too many were skipped.
    """
    clock.skipped += 1
    if fault.stops:
        raise TrainingError(stop_text(fault, samples, clock))
    where = _place(fault, samples, clock)
    if clock.skipped > config.max_skipped_steps:
        raise TrainingError(f"{where}; more than {config.max_skipped_steps} skipped steps")
    history.skipped.append(
        {
            "global_step": clock.global_step,
            "micro_step": clock.micro_step,
            "epoch": clock.epoch,
            "reason": fault.reason,
            "samples": " ".join(map(str, samples)),
        }
    )
    logger.warning("skipped %s", where)
