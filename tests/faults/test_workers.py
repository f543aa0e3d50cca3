"""A loader process that dies ends the training in one line, soon, and without leftovers (FP21)."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.errors import TrainingError
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.task import Task
from plumbline.training.trainer import Trainer
from tests.training.together import ALONE

SAMPLES = 400


class Source:
    """Numbers, each of which takes its loader a moment."""

    def __len__(self) -> int:
        return SAMPLES

    def sample(self, index: int, epoch: int) -> Sample:
        time.sleep(0.002)
        return {"index": index, "x": torch.tensor([float(index)])}


def collate(samples: Sequence[Sample]) -> Batch:
    rows = torch.stack([sample["x"] for sample in samples])
    return {"x": rows / SAMPLES, "sample_index": torch.tensor([s["index"] for s in samples])}


def children() -> list[int]:
    """Living children of this process."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    states = {
        pid: Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        for pid in listed
    }
    return [int(pid) for pid, state in states.items() if state != "Z"]


def run(folder: Path, when: str, attack: Callable[[], None], failing_batch: str = "stop") -> None:
    """Train with two loader processes, and attack once: in the third loss or log call."""
    calls = {"loss": 0, "log": 0}

    def count(name: str) -> None:
        calls[name] += 1
        if name == when and calls[name] == 3:
            attack()

    def loss(model: nn.Module, batch: Batch) -> LossSum:
        count("loss")
        return LossSum(model(batch["x"]).square().sum(), torch.tensor(len(batch["x"])))

    def log(step: int, values: Mapping[str, float]) -> None:
        count("log")

    config = TrainerConfig.model_validate(
        {
            "device": "cpu",
            "precision": "fp32",
            "validate_every_epochs": 0,
            "failing_batch": failing_batch,
            "checkpoint": {"every_steps": 1},
        }
    )
    task = Task(name="toy", collate=collate, loss=loss)
    loader = Loader(Source(), collate, LoaderConfig(batch_size=8, workers=2), seed=0, shuffle=True)
    store = CheckpointStore(folder, "f")
    Trainer(
        nn.Linear(1, 1),
        task,
        loader,
        None,
        config,
        ALONE,
        store=store,
        seed=0,
        on_log=log,
    ).fit()


@pytest.mark.parametrize("when", ["loss", "log"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("failing_batch", ["stop", "skip"])
def test_a_dead_loader_process_is_named_and_never_skipped(
    tmp_path: Path, when: str, number: signal.Signals, failing_batch: str
) -> None:
    before = set(children())
    killed: list[int] = []

    def kill_one() -> None:
        killed.append(sorted(set(children()) - before)[0])
        os.kill(killed[0], number)
        time.sleep(0.2)  # its signal comes up here, in the midst of the training's own work

    started = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, when, kill_one, failing_batch)
    assert time.monotonic() - started < 60  # a hang has no end: any limit tells it from an error
    text = str(caught.value)
    assert text.startswith(f"loader: DataLoader worker (pid {killed[0]}) is killed by signal: ")
    assert "loader.workers" in text
    assert "\n" not in text
    latest = CheckpointStore(tmp_path, "f").latest()
    assert latest is not None  # what was saved before stands
    deadline = time.monotonic() + 20
    while set(children()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(children()) - before


def test_an_error_of_the_loss_itself_is_no_dead_worker(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("DataLoader of words")

    with pytest.raises(TrainingError, match="optimiser step 2: RuntimeError: DataLoader of words"):
        run(tmp_path, "loss", fail)
