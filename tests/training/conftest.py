"""A training so small that its every number can be worked out again: linear regression."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum, Sample
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.progress import OnLog
from plumbline.training.task import Task
from plumbline.training.trainer import Trainer
from tests.training.together import ALONE, Together, run_together

SEED = 11
WIDTH = 3


class Points:
    """Points with targets, float64; every fifth one does not count."""

    def __init__(self, count: int, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, WIDTH, generator=random, dtype=torch.float64)
        self.y = (self.x.sum(dim=1) + 1).sin()
        self.counts = torch.arange(count) % 5 != 4

    def __len__(self) -> int:
        return len(self.x)

    def sample(self, index: int, epoch: int) -> Sample:
        return {
            "index": index,
            "x": self.x[index],
            "y": self.y[index],
            "counts": self.counts[index],
        }


def collate(samples: Sequence[Sample]) -> Batch:
    batch = {name: torch.stack([s[name] for s in samples]) for name in ("x", "y", "counts")}
    return {**batch, "sample_index": torch.tensor([s["index"] for s in samples])}


def squared_error(model: nn.Module, batch: Batch) -> LossSum:
    errors = (model(batch["x"]).squeeze(1) - batch["y"]).square()
    counts = batch["counts"]
    return LossSum((errors * counts).sum(), counts.sum())


class Regressor(nn.Module):
    """Two parts, a norm in between, and dropout where it is asked for; float64."""

    def __init__(self, dropout: float = 0.0, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(WIDTH, 5), nn.LayerNorm(5), nn.Dropout(dropout))
        self.head = nn.Linear(5, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


TASK = Task(name="toy", collate=collate, loss=squared_error)


class Killed(Exception):
    """Stands for the death of the process."""


@dataclass
class Toy:
    """Builds trainers over one folder of training state."""

    folder: Path
    log: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def trainer(
        self,
        model: nn.Module | None = None,
        *,
        samples: int = 20,
        batch_size: int = 4,
        task: Task = TASK,
        validation: int | None = 7,
        frozen: Sequence[str] = (),
        fingerprint: str = "f" * 64,
        precision: str = "fp32",
        compiled: bool = False,
        on_log: OnLog | None = None,
        **settings: Any,
    ) -> Trainer:
        """A trainer of `Regressor` unless a model is given; `settings` go to TrainerConfig."""
        base = {"device": "cpu", "schedule": {"name": "constant"}}
        config = TrainerConfig.model_validate({**base, **settings})
        loader = LoaderConfig(batch_size=batch_size)

        machine = replace(ALONE, device=torch.device(config.device), precision=precision)

        def load(count: int, seed: int, shuffle: bool) -> Loader:
            return Loader(Points(count, seed), task.collate, loader, seed=SEED, shuffle=shuffle)

        return Trainer(
            Regressor() if model is None else model,
            task,
            load(samples, 0, True),
            None if validation is None else load(validation, 1, False),
            config,
            replace(machine, compile="default" if compiled else "none"),
            store=CheckpointStore(
                self.folder,
                fingerprint,
                keep_every_epochs=config.checkpoint.keep_every_epochs,
            ),
            seed=SEED,
            frozen=frozen,
            on_log=on_log or self.record,
        )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self.log.append((step, dict(values)))

    def killed_at(self, call: int) -> OnLog:
        """A log whose call number `call`, counted from 0, ends the run."""
        calls = iter(range(10**6))

        def on_log(step: int, values: Mapping[str, float]) -> None:
            if next(calls) == call:
                raise Killed

        return on_log

    @staticmethod
    def scripted(values: Sequence[float], name: str = "score") -> Task:
        """The toy task with a validation metric that takes the given values in turn."""
        script: Iterator[float] = iter(values)
        return replace(TASK, validation_metrics=lambda model: {name: next(script)})

    @staticmethod
    def spoilt(spoil: Callable[[Batch, LossSum], LossSum]) -> Task:
        """The toy task with a loss that is changed by `spoil` afterwards."""

        def loss(model: nn.Module, batch: Batch) -> LossSum:
            return spoil(batch, squared_error(model, batch))

        return replace(TASK, loss=loss)

    @staticmethod
    def regressor(dropout: float = 0.0, seed: int = 3) -> Regressor:
        return Regressor(dropout, seed)

    @staticmethod
    def points(count: int, seed: int = 0) -> Points:
        return Points(count, seed)


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is tested with the files; here hundreds of states are written."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "state")


@pytest.fixture
def make_toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Toy]:
    """Toys with folders of their own, to compare runs."""
    return lambda: Toy(tmp_path_factory.mktemp("run") / "state")


@pytest.fixture
def killed() -> type[Exception]:
    return Killed


@pytest.fixture
def together(tmp_path: Path) -> Together:
    """Runs a function in two processes; what each returned or raised, None for one that died."""
    return partial(run_together, tmp_path)
