"""A batch of one sample and a norm over batches: known before the first step, by the settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.errors import ConfigError
from plumbline.loading.keys import Share
from plumbline.loading.loader import WHOLE, Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.checkpoint import CheckpointStore
from plumbline.training.config import TrainerConfig
from plumbline.training.trainer import Trainer
from tests.training.conftest import SEED, TASK, WIDTH, Points, Regressor
from tests.training.together import ALONE


class Normed(Regressor):
    """The toy with batch norm over samples alone, or over samples and three positions of each."""

    def __init__(self, norm: Callable[[int], nn.Module], positions: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 5), norm(positions))
        self.double()


class Positions(nn.Module):
    """Batch norm of one channel over [batch, 1, width]: several values of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x[:, None]).squeeze(1)
        return out


def batch_norm(_: int) -> nn.Module:
    return nn.BatchNorm1d(5)


def build(
    folder: Path,
    model: nn.Module,
    samples: int,
    share: Share = WHOLE,
    frozen: tuple[str, ...] = (),
    **loader: Any,
) -> Trainer:
    """A trainer over so many samples in batches of 4, unless the loader says otherwise."""
    config = TrainerConfig.model_validate(
        {"device": "cpu", "precision": "fp32", "epochs": 2, "validate_every_epochs": 0}
    )
    settings = LoaderConfig.model_validate({"batch_size": 4} | loader)
    points = Points(samples)
    train = Loader(points, TASK.collate, settings, seed=SEED, shuffle=True, share=share)
    store = CheckpointStore(folder, "f" * 64, keep_every_epochs=0)
    return Trainer(
        model, TASK, train, None, config, ALONE, store=store, seed=SEED,
        frozen=frozen,
    )  # fmt: skip


REFUSED: dict[str, tuple[int, Share, dict[str, Any], str]] = {
    "the last batch": (
        9,
        WHOLE,
        {},
        "loader.batch_size 4, drop_last False and 9 training samples leave a batch of one sample: "
        "the batch norm of body.1 takes more than one value in training; set loader.drop_last to "
        "true, or choose another loader.batch_size",
    ),
    "every batch": (8, WHOLE, {"batch_size": 1}, "set loader.batch_size to 2 or more"),
    "a share of the last batch": (
        11,
        Share(0, 2),
        {},
        "leave one of 2 processes one sample: .*; set loader.drop_last to true",
    ),
    "the share of the other process": (11, Share(1, 2), {}, "one of 2 processes one sample"),
    "a share of every batch": (9, Share(0, 3), {}, "set loader.batch_size to 6 or more"),
    "a stand-in": (9, Share(0, 2, stand_in=True), {"batch_size": 8}, "one of 2 processes"),
    "all there is": (1, WHOLE, {"drop_last": True}, "choose other limits of the batches"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_sample_for_batch_norm_is_refused_before_the_first_step(
    tmp_path: Path, name: str
) -> None:
    samples, share, loader, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, Normed(batch_norm), samples, share, **loader)


FINE: dict[str, tuple[Callable[[], nn.Module], int, Share, dict[str, Any]]] = {
    "drop_last": (lambda: Normed(batch_norm), 9, WHOLE, {"drop_last": True}),
    "two samples": (lambda: Normed(batch_norm), 10, WHOLE, {}),
    "two a share": (lambda: Normed(batch_norm), 12, Share(0, 2), {}),
    "several values of a sample": (lambda: Normed(lambda _: Positions()), 9, WHOLE, {}),
    "layer norm": (Regressor, 9, WHOLE, {}),
    "group norm": (lambda: Normed(lambda _: nn.GroupNorm(1, 5)), 9, WHOLE, {}),
}


@pytest.mark.parametrize("name", FINE)
def test_what_the_model_takes_is_trained_on_to_the_end(tmp_path: Path, name: str) -> None:
    make, samples, share, loader = FINE[name]
    trainer = build(tmp_path, make(), samples, share, **loader)
    assert trainer.fit().clock.epoch == 2


def test_a_frozen_norm_takes_one_sample(tmp_path: Path) -> None:
    assert build(tmp_path, Normed(batch_norm), 9, frozen=("body",)).fit().clock.samples == 18


def test_asking_the_model_leaves_no_mark(tmp_path: Path) -> None:
    model = Normed(lambda _: Positions())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    build(tmp_path, model, 9)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_another_fault_of_the_sample_is_left_to_its_step(tmp_path: Path) -> None:
    def failing(model: nn.Module, batch: Any) -> Any:
        raise ValueError("spoilt")

    config = TrainerConfig.model_validate({"device": "cpu", "validate_every_epochs": 0})
    train = Loader(Points(9), TASK.collate, LoaderConfig(batch_size=4), seed=SEED, shuffle=True)
    store = CheckpointStore(tmp_path, "f" * 64, keep_every_epochs=0)
    task = replace(TASK, loss=failing)
    Trainer(
        Normed(batch_norm),
        task,
        train,
        None,
        config,
        ALONE,
        store=store,
        seed=SEED,
    )
