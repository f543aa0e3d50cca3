"""Trainings in two processes, forked from a test that has built all, and their measures."""

import itertools
import os
import pickle
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plumbline.batch import Batch
from plumbline.config import Config
from plumbline.kind import Kind
from plumbline.loading.keys import Share
from plumbline.loading.loader import Keyed, collate_share
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.config import TrainerConfig
from plumbline.training.launch import decide_machine
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.run import train_along, train_to_folder
from plumbline.training.sections import TrainingConfig, TrainSection
from plumbline.training.task import TrainingJob
from plumbline.training.task_config import TaskConfig
from plumbline.training.window import Gradients, WindowSums
from plumbline.weights.settings import NOWHERE

CPU = torch.device("cpu")
ALONE = Machine(CPU, "fp32", Processes())
MakeJob = Callable[..., TrainingJob]
Together = Callable[..., list[Any]]
"""Runs a function of its processes in two of them, or in as many as `count` says."""


def _child(function: Callable[[Processes], Any], out: Path, timeout_s: float) -> None:
    signal.alarm(240)  # processes that wait for each other for ever are a failure, and end
    try:
        result = function(Processes.join(CPU, timeout_s))
    except BaseException as error:  # an error of a child is a result, to be looked at by the test
        result = error
    out.write_bytes(pickle.dumps(result))
    os._exit(0)


def run_together(
    folder: Path, function: Callable[[Processes], Any], timeout_s: float = 240.0, count: int = 2
) -> list[Any]:
    """Run a function in processes; what each returned or raised, None for one that died."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [folder / f"result-{rank}" for rank in range(count)]
    children = []
    for rank, place in enumerate(places):
        place.unlink(missing_ok=True)
        if (pid := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _child(function, place, timeout_s)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    # Written by the forked test itself.
    return [pickle.loads(p.read_bytes()) if p.exists() else None for p in places]


def double(value: Any) -> Any:
    """The same batch in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return {k: double(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def exact(job: TrainingJob) -> TrainingJob:
    """The job in float64, so that only mistakes are left to differ."""
    job.model.double()

    def in_float64(task: Any) -> Any:
        collate = task.collate
        return replace(task, collate=lambda samples: double(collate(samples)))

    validation = in_float64(job.validation_task) if job.validation_task else None
    return replace(job, task=in_float64(job.task), validation_task=validation)


CUTS = [(0, 6), (6, 11), (11, 12)]
"""The second cannot be halved, and of the third one process has no sample."""


def share_of_window(job: TrainingJob, share: Share) -> list[Batch]:
    """The micro-batches of `CUTS`, as a loader gives them to one process."""
    collated = partial(collate_share, job.task.collate)
    source = Keyed(job.train)
    return [
        collated([source[key] for key in share.keys(np.arange(first, end), 0)])
        for first, end in CUTS
    ]


def gradients_of(
    job: TrainingJob, processes: Processes, micro_batches: int
) -> tuple[WindowSums, dict[str, Tensor]]:
    job.model.eval().zero_grad()
    scaler = torch.GradScaler("cpu", enabled=False)
    whole = Gradients(job.model, job.task, replace(ALONE, processes=processes), scaler)
    window = share_of_window(job, processes.share)[:micro_batches]
    sums = whole.accumulate(window, range(len(window)))
    found = {n: p.grad for n, p in job.model.named_parameters() if p.grad is not None}
    return sums, {name: gradient.clone() for name, gradient in found.items()}


class TinyConfig(TrainingConfig):
    """The settings of a job that a test has built itself."""

    @property
    def work(self) -> Kind:
        raise NotImplementedError


def settings(
    batch_size: int = 5, workers: int = 0, freeze: Sequence[str] = (), **trainer: Any
) -> TrainingConfig:
    base = {
        "device": os.environ.get("PLUMBLINE_TEST_DEVICE", "cpu"),
        "precision": "fp32",
        "epochs": 2,
        "grad_accum_steps": 2,
        "optim": {"lr": 0.01},
    }
    train = TrainSection(
        model=Config(),
        freeze=list(freeze),
        task=TaskConfig(),
        loader=LoaderConfig(batch_size=batch_size, workers=workers),
        trainer=TrainerConfig.model_validate(base | trainer),
    )
    return TinyConfig(seed=0, threads=1, data="tiny", weights=NOWHERE, train=train)


def train(job: TrainingJob, config: TrainingConfig, out: Path, processes: Processes) -> str:
    """Train in this process, as the stage does; what it says of itself."""
    met = replace(processes, sharded=config.train.trainer.meets)
    machine = replace(decide_machine(config), processes=met)
    if not processes.is_main:
        train_along("test", config, job, machine)
        return "followed"
    train_to_folder("test", config, job, machine, out, on_log=lambda step, values: None)
    return "led"


def ended(
    job: TrainingJob, config: TrainingConfig, processes: Processes, batch: int, how: signal.Signals
) -> str:
    """Train to the folder `parted`, with a signal to the second process at one of its batches."""
    collate, batches = job.task.collate, itertools.count()

    def ending(samples: Sequence[Any]) -> Batch:
        if processes.rank == 1 and next(batches) == batch:
            os.kill(os.getpid(), how)
        return collate(samples)

    broken = replace(job, task=replace(job.task, collate=ending))
    return train(broken, config, Path("parted"), processes)


def states(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("step-*"))


def failing(job: TrainingJob, processes: Processes, sample: int) -> TrainingJob:
    """The job with a loss that fails in the process that has a certain sample."""
    loss = job.task.loss

    def broken(model: nn.Module, batch: Batch) -> Any:
        if sample in batch["sample_index"].tolist():
            raise ValueError(f"sample {sample} is odd")
        return loss(model, batch)

    return replace(job, task=replace(job.task, loss=broken))
