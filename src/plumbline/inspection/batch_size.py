"""Which batch size trains fastest within a memory limit, by trying."""

import argparse
import itertools
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from plumbline.errors import ConfigError, TrainingError
from plumbline.inspection.probe import draw_samples, run_probe
from plumbline.inspection.result import Report, table
from plumbline.inspection.target import Target
from plumbline.training.skipping import is_out_of_memory
from plumbline.training.trainer import Trainer

WARM_UP = 2
"""Steps at each size that are not counted: allocators, kernels and caches settle."""
AS_FAST = 0.97
"""Of the best throughput: sizes above it count as equally fast, and the smallest is chosen."""
COLUMNS = {
    "batch_size": "batch size",
    "samples_per_s": "samples/s",
    "step_ms": "step (ms)",
    "slowest_ms": "slowest",
    "memory_mib": "peak MiB",
    "note": "",
}


@dataclass(frozen=True)
class Trial:
    """What one batch size does."""

    batch_size: int
    steps_s: list[float]
    """Seconds of each counted step, data included."""
    memory_bytes: int | None
    """Most memory in use: of the GPU's allocator, or of the process on a CPU."""

    @property
    def samples_per_s(self) -> float:
        """From the median step."""
        return self.batch_size / statistics.median(self.steps_s)


class Memory:
    """The most memory in use since the last reset."""

    def __init__(self, device: torch.device) -> None:
        """Measure the allocator of a GPU, or the process."""
        self._device = device

    def limit(self) -> int:
        """What may be used unless the user says otherwise: 90 % of what is there."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            return int(0.9 * (free + torch.cuda.memory_reserved(self._device)))
        found = _proc_bytes("/proc/meminfo", "MemAvailable")
        own = _proc_bytes("/proc/self/status", "VmRSS")
        return int(0.9 * ((found or 2**40) + (own or 0)))

    def reset(self) -> None:
        """Begin anew."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            return  # the peak is then that of the whole process so far, which sizes only raise

    def peak(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _proc_bytes("/proc/self/status", "VmHWM")


def _proc_bytes(file: str, key: str) -> int | None:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def inspect(target: Target, options: argparse.Namespace) -> Report:
    """Measure training steps at batch sizes 1 (or what the model takes), 2, 4, ...; choose one.

    Raises:
        TrainingError: not even the smallest fits.
    """
    memory = Memory(target.machine.device)
    limit = memory.limit() if options.memory_mb is None else options.memory_mb << 20
    largest = min(options.max, len(target.job.train))
    ends = time.monotonic() + options.seconds
    trials: list[Trial] = []
    stopped, size = "", 1
    while not stopped and size <= largest:
        try:
            trial = measure(target, size, options.repeats, memory)
        except TrainingError as error:
            if not is_out_of_memory(error.__cause__):
                raise
            stopped = f"out of memory at {size}"
            break
        except ConfigError:
            if size > 1 or largest < 2:
                raise
            size = 2  # batch norm may not take one sample; what else is wrong, two of them tell
            continue
        trials.append(trial)
        stopped = _reason_to_stop(trials, limit, ends)
        size *= 2
    best = choose(trials, limit)
    if best is None:
        raise TrainingError(
            f"{target.key}: not even one sample fits into {limit >> 20} MiB"
            f"{f' ({stopped})' if stopped else ''}; make the model smaller or raise --memory-mb"
        )
    rows = [_row(trial, limit, best) for trial in trials]
    text = (
        f"{table(rows, COLUMNS)}\n\nloader.batch_size={best.batch_size}: the smallest size that is "
        f"within {1 - AS_FAST:.0%} of the fastest in {limit >> 20} MiB"
    )
    return Report(
        f"{text}; stopped: {stopped}" if stopped else text,
        {
            "best": best.batch_size,
            "limit_bytes": limit,
            "stopped": stopped,
            "repeats": options.repeats,
            "precision": target.machine.precision,
            "trials": [{**asdict(t), "samples_per_s": t.samples_per_s} for t in trials],
            "machine": _machine(target.machine.device),
        },
    )


def measure(target: Target, size: int, repeats: int, memory: Memory) -> Trial:
    """Time training steps of one batch size, data included.

    Raises:
        TrainingError: a step fails, such as out of memory.
    """
    job = target.job
    wanted = size * (WARM_UP + repeats)
    drawn = draw_samples(target, job, wanted)
    numbers = (drawn * -(-wanted // len(drawn)))[:wanted]
    ends: list[float] = []

    def on_step(trainer: Trainer) -> bool:
        ends.append(time.perf_counter())  # the trainer has read the loss: the device is done
        return True

    memory.reset()
    run_probe(target, job, numbers, size, on_step)
    steps = [after - before for before, after in itertools.pairwise(ends)]
    return Trial(size, steps[WARM_UP - 1 :], memory.peak())


def _reason_to_stop(trials: list[Trial], limit: int, ends: float) -> str:
    """Why the next size is not tried; nothing where it is."""
    last = trials[-1]
    steps = len(last.steps_s) + WARM_UP
    needed = 2 * steps * statistics.median(last.steps_s)
    if time.monotonic() + needed > ends:
        return f"--seconds would be over during {2 * last.batch_size}"
    if last.memory_bytes is None or len(trials) < 2 or trials[-2].memory_bytes is None:
        return ""
    # What a sample takes shows in the difference of two sizes; the model itself drops out.
    next_bytes = last.memory_bytes + 2 * max(0, last.memory_bytes - trials[-2].memory_bytes)
    if next_bytes > limit:
        return f"{2 * last.batch_size} would take some {next_bytes >> 20} MiB"
    return ""


def choose(trials: list[Trial], limit: int) -> Trial | None:
    """The smallest size that is as good as the fastest within a limit; None where none fits."""
    fit = [t for t in trials if t.memory_bytes is None or t.memory_bytes <= limit]
    if not fit:
        return None
    fastest = max(trial.samples_per_s for trial in fit)
    return next(trial for trial in fit if trial.samples_per_s >= AS_FAST * fastest)


def _row(trial: Trial, limit: int, best: Trial) -> dict[str, object]:
    memory = trial.memory_bytes
    note = "best" if trial == best else ""
    return {
        "batch_size": trial.batch_size,
        "samples_per_s": trial.samples_per_s,
        "step_ms": 1e3 * statistics.median(trial.steps_s),
        "slowest_ms": 1e3 * max(trial.steps_s),
        "memory_mib": None if memory is None else memory >> 20,
        "note": "over the limit" if memory is not None and memory > limit else note,
    }


def _machine(device: torch.device) -> dict[str, object]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": device.type,
        "name": name,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
