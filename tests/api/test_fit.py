"""`plumbline.fit`: the trainer of the pipeline for a caller's own objects, exact through kills."""

import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plumbline
from plumbline.api.fit import Fitted
from plumbline.api.identity import own_code
from plumbline.batch import LossSum
from plumbline.errors import ConfigError, OutputError, TrainingError
from plumbline.files import exclusive_lock
from tests.training.together import run_together

KILLED_AT = (1, 5, 8, 10)
"""Calls of the log of `RUN`: within the first epoch, after its validation, and in the last one."""
RUN: dict[str, Any] = {
    "seed": 7,
    "threads": 1,
    "loader": {"batch_size": 6},
    "trainer": {
        "device": "cpu",
        "epochs": 3,
        "grad_accum_steps": 2,
        "optim": {"lr": 0.02},
        "checkpoint": {"every_steps": 1},
    },
}


class Points:
    """Points whose noise comes from all three global generators, anew in every epoch."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = 0.1 * torch.randn(4) + 0.1 * np.random.random() + 0.1 * random.random()  # noqa: NPY002
        return {"x": self.x[index] + noise, "y": self.x[index].sum().sin()}


class Net(nn.Module):
    """With what a resumed run has to take up: dropout, and moving statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x)).squeeze(1)
        return out


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def squared(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])


def train(state: Path, workers: int = 0, **changes: Any) -> Fitted:
    loader = {**RUN["loader"], "workers": workers}
    settings = {**RUN, "loader": loader, **changes}
    return plumbline.fit(net(), squared, Points(32), Points(9, 1), state=state, **settings)


def outcome(fitted: Fitted) -> dict[str, Any]:
    """Everything that a run ends in, to be compared exactly."""
    return {
        "weights": {name: value.tolist() for name, value in fitted.model.state_dict().items()},
        "history": vars(fitted.history),
        "best": vars(fitted.best),
    }


def killed(function: Callable[[], object]) -> bool:
    """Whether a function, run in a process of its own, was ended by SIGKILL."""
    own_code()  # once, for all that are forked
    if (pid := os.fork()) == 0:
        function()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def killing_at(call: int) -> Callable[[int, Mapping[str, float]], None]:
    """A log whose call number `call`, counted from 0, kills the process."""
    calls = iter(range(10**6))

    def on_log(step: int, values: Mapping[str, float]) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_log


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nobody stops ends in."""
    return outcome(train(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_killed_run_that_is_called_again_ends_in_the_same_bits(
    tmp_path: Path, whole: dict[str, Any], workers: int
) -> None:
    for call in KILLED_AT:
        state = tmp_path / str(call)
        assert killed(lambda at=call, to=state: train(to, workers, on_log=killing_at(at))), call
        assert list(state.glob("*/step-*")) or call == KILLED_AT[0]
        torch.manual_seed(99)  # a new process begins with other global generators
        assert outcome(train(state, workers)) == whole, call


def test_a_run_killed_again_and_again_ends_in_the_same_bits(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    kills = 0
    # Two steps and the validation between them: the second step does not save before what the
    # first one saved is whole, so that no call ends where it began, however slow the disk is.
    while killed(lambda: train(tmp_path, on_log=killing_at(3))):
        kills += 1
        assert kills < 20
    assert kills >= 3
    assert outcome(train(tmp_path)) == whole


def test_the_model_that_is_given_stays_and_the_same_call_returns_what_it_came_to(
    tmp_path: Path,
) -> None:
    model, calls = net(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def again() -> Fitted:
        return plumbline.fit(
            *(model, squared, Points(32), Points(9, 1)),
            state=tmp_path,
            on_log=lambda step, values: calls.append(step),
            **RUN,
        )

    first = again()
    assert first.model is not model
    assert not first.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    made = len(calls)
    assert made == 3 * (3 + 1)
    assert outcome(again()) == outcome(first)
    assert len(calls) == made  # not a step more


def test_the_best_weights_of_the_validation_are_returned(tmp_path: Path) -> None:
    settings = {**RUN, "trainer": {**RUN["trainer"], "optim": {"lr": 0.5}}}  # worse in the end
    fitted = plumbline.fit(net(), squared, Points(32), Points(9, 1), state=tmp_path, **settings)
    measured = [row["loss"] for row in fitted.history.validations]
    assert fitted.best.value == min(measured)
    points = [plumbline_sample(Points(9, 1), i) for i in range(9)]
    with torch.no_grad():
        x, y = (torch.stack([point[name] for point in points]) for name in ("x", "y"))
        found = nn.functional.mse_loss(fitted.model(x), y)
    assert float(found) == pytest.approx(fitted.best.value, rel=1e-6)


def plumbline_sample(points: Points, index: int) -> dict[str, Any]:
    """A sample of the validation, with what was drawn for it."""
    from plumbline.api.dataset import MapSource

    sample: dict[str, Any] = MapSource(points, RUN["seed"], "validation").sample(index, 0)["sample"]
    return sample


def test_a_mean_a_pair_and_a_loss_sum_are_the_same_training(tmp_path: Path) -> None:
    def pair(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        return (model(batch["x"]) - batch["y"]).square().sum(), len(batch["y"])

    def loss_sum(model: nn.Module, batch: Mapping[str, Tensor]) -> LossSum:
        return LossSum(*[torch.as_tensor(each) for each in pair(model, batch)])

    runs = [
        plumbline.fit(net(), loss, Points(32), state=tmp_path / name, **RUN)
        for name, loss in {"mean": squared, "pair": pair, "sum": loss_sum}.items()
    ]
    losses = [[row["loss"] for row in run.history.steps] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[2] == losses[1]
    # 32 samples in batches of 6: in a mean of means the last one would weigh as the others.
    assert [row["count"] for row in runs[0].history.micro][:6] == [6, 6, 6, 6, 6, 2]


def test_a_loss_may_hand_the_whole_batch_to_the_model(tmp_path: Path) -> None:
    class Scored(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(super().forward(x), y)

    torch.manual_seed(1)
    whole = plumbline.fit(
        Scored(), lambda model, batch: model(**batch), Points(32), state=tmp_path / "a", **RUN
    )
    named = plumbline.fit(net(), squared, Points(32), state=tmp_path / "b", **RUN)
    assert whole.history == named.history


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    own_code()

    def alone() -> Fitted:
        torch.manual_seed(1)
        model = nn.Linear(4, 1)
        return plumbline.fit(model, linear, Fixed(32), state=tmp_path / "s", **RUN)

    single = alone()
    (tmp_path / "s").rename(tmp_path / "one")
    both = run_together(tmp_path, lambda processes: outcome(alone()))
    assert all(isinstance(each, dict) for each in both), both
    assert both[0]["weights"] == both[1]["weights"]
    for name, value in single.model.state_dict().items():
        np.testing.assert_allclose(both[0]["weights"][name], value.tolist(), rtol=1e-4, atol=1e-6)
    again = run_together(tmp_path, lambda processes: outcome(alone()))
    assert again == both


class Fixed(Points):
    """The same points without noise."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "y": self.x[index].sum()}


def linear(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]).squeeze(1), batch["y"])


def test_processes_that_start_from_other_weights_are_told(tmp_path: Path) -> None:
    def differing(processes: Any) -> Fitted:
        torch.manual_seed(processes.rank)
        return plumbline.fit(nn.Linear(4, 1), linear, Fixed(32), state=tmp_path / "s", **RUN)

    for error in run_together(tmp_path, differing):
        assert isinstance(error, ConfigError)
        assert "different weights: call torch.manual_seed before it is made" in str(error)


def test_ctrl_c_saves_the_state_and_leaves_the_kernel_running(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    def interrupt(step: int, values: Mapping[str, float]) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d, saved in .*: the same ca"):
        train(tmp_path, on_log=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert outcome(train(tmp_path)) == whole


def test_two_calls_at_once_do_not_share_a_state(tmp_path: Path) -> None:
    fitted = train(tmp_path)
    said = f"running process {os.getpid()} trains the same"
    with exclusive_lock(fitted.state.with_suffix(".lock")), pytest.raises(OutputError, match=said):
        train(tmp_path)


def test_another_loss_starts_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def halved(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return squared(model, batch) / 2

    first = train(tmp_path)
    assert not caplog.messages
    second = plumbline.fit(net(), halved, Points(32), Points(9, 1), state=tmp_path, **RUN)
    (said,) = caplog.messages
    assert said.startswith(f"fit: starting anew: {first.state}/step-18 differs in inputs.loss: ")
    assert second.state != first.state
    assert second.history.steps[0]["loss"] == pytest.approx(first.history.steps[0]["loss"] / 2)


def test_a_step_that_fails_names_its_samples(tmp_path: Path) -> None:
    class Spoilt(Points):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {**sample, "x": sample["x"] * (float("nan") if index == 17 else 1)}

    with pytest.raises(TrainingError, match=r"samples .*\b17\b"):
        plumbline.fit(net(), squared, Spoilt(32), state=tmp_path, **RUN)
