"""A mean loss weighs every target the same, and changes nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from plumbline.batch import LossSum
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.evaluation import evaluate_loss, to_device
from tests.training.together import ALONE


def loader(toy: Any, task: Any, batch_size: int) -> Loader:
    config = LoaderConfig(batch_size=batch_size)
    return Loader(toy.points(9), task.collate, config, seed=0, shuffle=False)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9])
def test_the_mean_does_not_depend_on_the_batch_size(toy: Any, batch_size: int) -> None:
    model, task, points = toy.regressor(dropout=0.5), toy.scripted([]), toy.points(9)
    found = evaluate_loss(model, task, loader(toy, task, batch_size).batches(0), ALONE)
    errors = (model.eval()(points.x).squeeze(1) - points.y).square()[points.counts]
    assert found == pytest.approx(errors.mean().item(), rel=1e-12)
    assert all(p.grad is None for p in model.parameters())


def test_the_model_is_left_evaluating(toy: Any) -> None:
    model, task = toy.regressor().train(), toy.scripted([])
    evaluate_loss(model, task, loader(toy, task, 4).batches(0), ALONE)
    assert not model.training


def test_a_split_without_any_target_costs_nothing(toy: Any) -> None:
    def nothing(model: nn.Module, batch: Any) -> LossSum:
        return LossSum(torch.tensor(0.0), torch.tensor(0))

    task = replace(toy.scripted([]), loss=nothing)
    assert evaluate_loss(toy.regressor(), task, loader(toy, task, 4).batches(0), ALONE) == 0.0


def test_strings_stay_where_tensors_move() -> None:
    batch = to_device({"texts": ["a"], "x": torch.ones(1)}, torch.device("meta"))
    assert batch["texts"] == ["a"]
    assert batch["x"].device.type == "meta"
