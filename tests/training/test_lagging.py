"""Steps whose numbers are read one step late are the same steps, and stand for the same faults.

A GPU makes them so; here a CPU does, whose fused AdamW is held by the same number.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.errors import TrainingError
from plumbline.training.history import FitResult
from plumbline.training.optim import can_be_held, hold
from plumbline.training.step import OptimizerStep
from tests.training.conftest import WIDTH
from tests.training.test_trainer_faults import BAD_SAMPLE, FAULTS, with_bad_sample

MakeToy = Callable[[], Any]
SKIPPING = {"non_finite": "skip", "epochs": 3}
SETTINGS: list[dict[str, Any]] = [
    {"epochs": 2},
    {"epochs": 2, "grad_accum_steps": 2, "validate_every_steps": 2},
    {"epochs": 3, "max_steps": 7, "checkpoint": {"every_steps": 2}},
    {"epochs": 2, "validate_every_epochs": 0, "schedule": {"name": "cosine"}},
]


class Normed(nn.Module):
    """A model whose statistics move with each batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether steps are read one step late from here on."""

    def switch(on: bool) -> None:
        found = property(lambda step: on and can_be_held(step.optimizer))
        monkeypatch.setattr(OptimizerStep, "lags", found)

    return switch


def trained(toy: Any, **settings: Any) -> tuple[FitResult, dict[str, Tensor], list[Any]]:
    trainer = toy.trainer(**settings)
    result = trainer.fit()
    return result, dict(trainer.model.state_dict()), toy.log


def both(
    make_toy: MakeToy, late: Callable[[bool], None], make: Callable[[Any], dict[str, Any]]
) -> Iterator[tuple[FitResult, dict[str, Tensor], list[Any]]]:
    for on in (False, True):
        late(on)
        toy = make_toy()
        yield trained(toy, **make(toy))


def assert_equal(
    one: tuple[FitResult, dict[str, Tensor], list[Any]],
    other: tuple[FitResult, dict[str, Tensor], list[Any]],
) -> None:
    assert repr(other[0].history) == repr(one[0].history)  # NaN is not equal to itself
    assert other[0].clock == one[0].clock
    assert repr(other[2]) == repr(one[2])
    for name, tensor in one[1].items():
        torch.testing.assert_close(other[1][name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_read_late_are_the_same_steps(
    make_toy: MakeToy, late: Callable[[bool], None], settings: dict[str, Any]
) -> None:
    at_once, lagging = both(make_toy, late, lambda toy: {"model": Normed(), **settings})
    assert_equal(at_once, lagging)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_leaves_no_mark_before_it_is_known(
    make_toy: MakeToy, late: Callable[[bool], None], fault: str
) -> None:
    """Not on weights, moments or moving statistics, though the next passes have begun."""
    at_once, lagging = both(
        make_toy,
        late,
        lambda toy: {"model": Normed(), "task": with_bad_sample(toy, fault), **SKIPPING},
    )
    assert at_once[0].clock.skipped == 3
    assert_equal(at_once, lagging)


def test_windows_without_a_target_make_no_step(
    make_toy: MakeToy, late: Callable[[bool], None]
) -> None:
    def empty(batch: Batch, loss: LossSum) -> LossSum:
        keep = int(BAD_SAMPLE not in batch["sample_index"])
        return LossSum(loss.total * keep, loss.count * keep)

    at_once, lagging = both(
        make_toy, late, lambda toy: {"model": Normed(), "task": toy.spoilt(empty), "epochs": 2}
    )
    assert at_once[0].clock.global_step == 8  # of ten windows
    assert_equal(at_once, lagging)


def test_a_step_that_stops_the_training_is_named_as_at_once(
    make_toy: MakeToy, late: Callable[[bool], None]
) -> None:
    said = []
    for on in (False, True):
        late(on)
        toy = make_toy()
        trainer = toy.trainer(task=with_bad_sample(toy, "nan"), validate_every_epochs=0)
        with pytest.raises(TrainingError) as caught:
            trainer.fit()
        said.append((str(caught.value), repr(toy.log)))
    assert said[1] == said[0]


@pytest.mark.parametrize("call", range(0, 12, 2))
def test_a_run_killed_while_a_step_is_pending_ends_in_the_same_bits(
    make_toy: MakeToy, late: Callable[[bool], None], killed: type[Exception], call: int
) -> None:
    settings = {"epochs": 2, "checkpoint": {"every_steps": 1}}
    late(False)
    whole = trained(make_toy(), **settings)
    late(True)
    toy = make_toy()
    with pytest.raises(killed):
        toy.trainer(on_log=toy.killed_at(call), **settings).fit()
    toy.log.clear()
    resumed = trained(toy, **settings)
    assert repr(resumed[0].history) == repr(whole[0].history)
    for name, tensor in whole[1].items():
        torch.testing.assert_close(resumed[1][name], tensor, rtol=0, atol=0)


def test_an_optimiser_that_is_held_changes_nothing_but_the_next_step_does() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    assert can_be_held(optimizer)
    assert not can_be_held(torch.optim.SGD([weight], lr=0.1))
    weight.grad = torch.full((3,), torch.nan)
    hold(optimizer, torch.tensor(True))
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.ones(3), rtol=0, atol=0)
    weight.grad = torch.ones(3)
    hold(optimizer, torch.tensor(False))
    optimizer.step()
    # The first step of AdamW is as long as the rate, behind the decay of 0.01 of it.
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.899), rtol=0, atol=1e-6)
    assert int(optimizer.state[weight]["step"]) == 1
