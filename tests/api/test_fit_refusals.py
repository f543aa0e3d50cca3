"""What `plumbline.fit` refuses, each in one line that says what to do."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plumbline
from plumbline.errors import ConfigError, DataError, PlumblineError

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "loader": {"batch_size": 4},
    "trainer": {"device": "cpu", "max_steps": 1},
}
ROWS = [{"x": torch.ones(3) * n, "y": float(n)} for n in range(8)]


def mean(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return (model(batch["x"]).squeeze(1) - batch["y"]).square().mean()


class Twice(nn.Module):
    """A model of which the loss uses one half."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.pooler = nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


class Drifting:
    """A dataset with a generator of its own, which goes on."""

    draw = np.random.default_rng(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor(self.draw.standard_normal(3)).float(), "y": 0.0}


def refused(error: type[PlumblineError], said: str, **changes: Any) -> None:
    given = {"model": nn.Linear(3, 1), "loss": mean, "data": ROWS, "state": Path("unused")}
    with pytest.raises(error, match=re.escape(said)) as raised:
        plumbline.fit(**{**given, **SETTINGS, **changes})
    assert "\n" not in str(raised.value)
    assert not list(Path("unused").glob("*/*"))  # a lock at most


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([(torch.ones(3), 0.0)], "data[0] is a tuple: samples are dicts, such as {"),
        (iter(ROWS), "data: list_iterator has no length or no item by number"),
        (Drifting(), "data[0] is another one each time it is read"),
        ([{"x": object()}, {"x": 1}], "key 'x' holds a object: give tensors, arrays, numbers"),
        ([{"x": torch.ones(2, 3)}, {"x": torch.ones(2, 4)}], "shapes [2, 3] and [2, 4] make no"),
        ([{"x": 1.0}, {"y": 1.0}], "key 'x': not in every sample"),
        ([{"sample_index": 1.0}], "a batch has the key 'sample_index', which the trainer needs"),
    ],
)
def test_data_that_makes_no_batch(data: Any, said: str) -> None:
    refused(DataError, said, data=data)
    if isinstance(data, Drifting):
        refused(DataError, said.replace("data", "validation"), validation=data)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda m, b: m(b["x"]), "the loss returned a tensor of shape [4, 1]: return the mean ove"),
        (lambda m, b: 0.5, "the loss returned a float"),
        (lambda m, b: (m(b["x"]), 4), "the loss returned (a tensor of shape [4, 1], a int)"),
        (lambda m, b: None, "the loss returned a NoneType"),
        (lambda m, b: b["x"].mean(), "the loss has no gradient for any parameter"),
        (lambda m, b: mean(m, b).detach(), "the loss has no gradient for any parameter"),
        (lambda m, b: mean(ANOTHER, b), "compute it with the model that it is given, not with ano"),
    ],
)
def test_a_loss_that_cannot_train(loss: Any, said: str) -> None:
    refused(ConfigError, said, loss=loss)


ANOTHER = nn.Linear(3, 1)


def test_parameters_without_a_gradient_are_named_and_can_be_frozen_or_allowed(
    tmp_path: Path,
) -> None:
    said = "pooler.0.weight (and 1 more) gets no gradient from the loss of the first batch: use it "
    refused(ConfigError, said, model=Twice())
    refused(ConfigError, 'freeze it (freeze=["pooler.0"])', model=Twice())
    for number, way in enumerate([{"freeze": ["pooler"]}, {"allow_unused": True}]):
        model = Twice()
        fitted = plumbline.fit(model, mean, ROWS, state=tmp_path / str(number), **SETTINGS, **way)
        assert torch.equal(fitted.model.pooler[0].weight, model.pooler[0].weight)  # type: ignore[union-attr, index]
        assert not torch.equal(fitted.model.used.weight, model.used.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lodder": {}}, "lodder: unknown key; did you mean loader?"),
        ({"trainer": {"epoch": 3}}, "trainer.epoch: unknown key; did you mean epochs?"),
        ({"loader": {"batch_size": 0}}, "loader.batch_size = 0: input should be greater than"),
        ({"threads": 0}, "threads = 0: input should be greater than or equal to 1"),
        ({"trainer": {"processes": 2}}, "trainer.processes = 2: a notebook is one process; start"),
        ({"trainer": {"micro_batch_size": 5}}, "trainer.micro_batch_size 5 is a part of a batch"),
        ({"trainer": {"early_stopping": {"patience": 1}, "epochs": 9}}, "needs validation: give "),
        ({"trainer": {"schedule": {"name": "plateau"}}}, "schedule plateau needs validation"),
        ({"trainer": {"validate_every_epochs": 1}}, "trainer.validate_every_epochs: no validatio"),
        ({"freeze": ["encoder"]}, "freeze: no part 'encoder'"),
        ({"data": []}, "no training sample"),
        ({"validation": []}, "no validation sample"),
        ({"model": object()}, "model is a object: give a torch.nn.Module"),
        ({"collate": lambda samples: [1]}, "collate returned a list: a batch is a dict"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    refused(DataError if "collate" in changes else ConfigError, said, **changes)


def test_a_model_that_cannot_be_copied_is_told_why() -> None:
    model = nn.Linear(3, 1)
    model.kept = model.weight * 2  # type: ignore[assignment]
    refused(ConfigError, "the model cannot be copied (", model=model)
