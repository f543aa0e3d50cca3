"""What the claims about a GPU share: a training by the trainer, a bare loop, and their figures.

Without a GPU everything runs at tiny sizes, so that a script can be rehearsed; such figures say
nothing.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import torch
from torch import Tensor, nn

from plumbline.loading.loader import Loader, SampleSource
from plumbline.loading.loader_config import LoaderConfig
from plumbline.models.device import repeat_exactly, resolve_precision, round_float32
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import Task
from plumbline.training.trainer import Trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
PEAK_FLOPS = 989e12
"""Of an H100 SXM in bf16, without sparsity, by its data sheet."""
WARM, STEPS = (8, 24) if ON_GPU else (2, 3)


def emit(claim: str, **facts: object) -> None:
    """Print one line of results."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
    print(json.dumps({"claim": claim, **rounded}), flush=True)


def size(on_gpu: int, tiny: int) -> int:
    """A size, or what a rehearsal has in its place."""
    return on_gpu if ON_GPU else tiny


def matmul_flops() -> float:
    """What a large product in bf16 reaches here, in operations a second."""
    n = size(8192, 256)
    one, other = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    times = _times(lambda: one @ other, 10)
    return 2 * n**3 / statistics.median(times)


def _synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def _times(run: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of some runs, whose work is done within them."""
    times = []
    for _ in range(count):
        _synchronize()
        began = time.perf_counter()
        run()
        _synchronize()
        times.append(time.perf_counter() - began)
    return times


def _peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0


def clear() -> None:
    """Let go of what earlier cases held."""
    import gc

    gc.collect()
    torch._dynamo.reset()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def train(
    model: nn.Module,
    task: Task,
    source: SampleSource,
    *,
    batch: int,
    deterministic: bool = True,
    workers: int | str = "auto",
    profile: bool = False,
    frozen: Sequence[str] = (),
    save_every: int = 0,
    **trainer: object,
) -> dict[str, object]:
    """Train by the trainer, with its loader; seconds of a step from the end of one to the next.

    Args:
        model: on the CPU.
        task: its batches and loss.
        source: of samples.
        batch: samples of a step.
        deterministic: as `trainer.deterministic`.
        workers: of the loader.
        frozen: parts of the model that do not train.
        save_every: steps between checkpoints; the extra time of a step with one is then measured,
            from the second on, and the first one's apart.
        profile: whether to measure the share of time in which kernels run.
        trainer: other settings of the trainer.
    """
    clear()
    torch.use_deterministic_algorithms(False)
    if ON_GPU and deterministic:
        repeat_exactly()
    precision = resolve_precision("auto", DEVICE)
    if ON_GPU:
        round_float32(precision)
    steps = WARM + max(STEPS, 3 * save_every)
    saving = {"every_steps": save_every or None}
    settings = {"validate_every_epochs": 0, "epochs": 10**6, "max_steps": steps, **trainer}
    settings["checkpoint"] = saving
    config = TrainerConfig.model_validate(settings)
    mode = config.compile.mode
    if mode == "auto":
        mode = "default" if ON_GPU else "none"
    machine = Machine(DEVICE, precision, Processes(), mode)
    seen: list[float] = []
    profiler = _Kernels() if profile else None

    def on_log(step: int, values: Mapping[str, float]) -> None:
        seen.append(time.perf_counter())
        if step == WARM and ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        if profiler is not None and step in (WARM, steps - 1):
            profiler.turn(step == WARM)

    loader = LoaderConfig.model_validate({"batch_size": batch, "workers": workers})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fitted = Trainer(
            model,
            task,
            Loader(source, task.collate_for(DEVICE), loader, seed=0, shuffle=True, device=DEVICE),
            None,
            config,
            machine,
            store=CheckpointStore(Path(folder), "bench", identity={}, keep_every_epochs=0),
            seed=0,
            frozen=frozen,
            on_log=on_log,
        ).fit()
    between = [later - one for one, later in zip(seen[WARM:], seen[WARM + 1 :], strict=False)]
    losses = [row["loss"] for row in fitted.history.steps]
    facts: dict[str, object] = {
        "step_s": statistics.mean(between),
        "median_step_s": statistics.median(between),
        "start_s": seen[0] - began,
        "peak_gib": _peak_gib(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "compile": fitted.facts.get("compile"),
    }
    if save_every:
        half = save_every // 2  # a window around a checkpoint, and one between two of them

        def seconds(middle: int) -> float:
            return seen[middle + half - 1] - seen[middle - half - 1]

        facts["first_checkpoint_s"] = seconds(save_every) - seconds(save_every + half)
        facts["checkpoint_s"] = seconds(2 * save_every) - seconds(2 * save_every + half)
    if profiler is not None:
        facts["kernel_share"] = profiler.share()
    return facts


class _Kernels:
    """The share of some time in which the GPU runs a kernel or copies."""

    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CUDA]
        self._profile = torch.profiler.profile(activities=activities)
        self._seconds = 0.0

    def turn(self, on: bool) -> None:
        """Begin or end."""
        if not ON_GPU:
            return
        if on:
            self._profile.__enter__()
            self._seconds = -time.perf_counter()
        else:
            torch.cuda.synchronize()
            self._seconds += time.perf_counter()
            self._profile.__exit__(None, None, None)

    def share(self) -> float:
        """Busy time over time."""
        if not ON_GPU:
            return 0.0
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events() or ()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        busy, end = 0.0, -1.0
        for start, stop in spans:  # kernels of several streams count once
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return busy / 1e6 / self._seconds


def loop(
    parameters: Sequence[nn.Parameter], loss: Callable[[int], Tensor], lr: float = 1e-4
) -> dict[str, object]:
    """A bare loop in bf16 with fused AdamW and clipping.

    Args:
        parameters: what trains.
        loss: of a step, by its number; run under autocast.
        lr: its rate.
    """
    torch.use_deterministic_algorithms(False)
    if ON_GPU:
        round_float32("bf16")
    optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True)
    began, number = time.perf_counter(), 0

    def step() -> Tensor:
        nonlocal number
        with torch.autocast(DEVICE.type, torch.bfloat16):
            value = loss(number)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return value.detach()

    step()
    _synchronize()
    start = time.perf_counter() - began
    for _ in range(WARM - 1):
        step()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()

    def many() -> None:
        for _ in range(STEPS):
            step()

    (seconds,) = _times(many, 1)
    found = {"step_s": seconds / STEPS, "start_s": start, "peak_gib": _peak_gib()}
    found["last_loss"] = float(step())
    return found
