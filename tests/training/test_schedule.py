"""Every curve follows its formula at every step, and peaks exactly where it is told to."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from plumbline.errors import ConfigError
from plumbline.training.config import TrainerConfig
from plumbline.training.schedule import (
    SCHEDULES,
    Plateau,
    ScheduleConfig,
    ScheduleCurve,
    lr_factor,
    resolve_warmup,
)

TOTAL, WARMUP = 40, 8


def config(name: str, **settings: Any) -> ScheduleConfig:
    return ScheduleConfig.model_validate({"name": name, **settings})


def expected(name: str, step: int, final: float) -> float:
    """The formulas as their papers have them."""
    if step < WARMUP:
        return step / WARMUP
    if name == "constant":
        return 1.0
    if name == "inverse_sqrt":
        return WARMUP**0.5 * step**-0.5
    share = (step - WARMUP) / (TOTAL - WARMUP)
    if name == "linear":
        return 1 + share * (final - 1)
    return final + 0.5 * (1 - final) * (1 + math.cos(math.pi * share))


FORMULAS = ["constant", "linear", "cosine", "inverse_sqrt"]
NAMES = list(SCHEDULES)


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_curve_follows_its_formula_at_each_step(name: str, final: float) -> None:
    schedule = config(name, warmup_steps=WARMUP, final_share=final)
    for step in range(TOTAL + 1):
        found = lr_factor(schedule, step, TOTAL)
        assert found == pytest.approx(expected(name, step, final), rel=1e-12, abs=1e-12), step


@pytest.mark.parametrize("warmup", [0, 1, 7, 39, 40])
@pytest.mark.parametrize("name", NAMES)
def test_the_peak_is_reached_exactly_at_the_end_of_the_warmup(name: str, warmup: int) -> None:
    factors = [lr_factor(config(name, warmup_steps=warmup), s, TOTAL) for s in range(TOTAL + 1)]
    assert factors[warmup] == 1.0
    assert all(0 <= factor < 1 for factor in factors[:warmup])
    assert all(factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_curves_agree_with_those_of_torch_at_each_step(name: str, final: float) -> None:
    stepped = optimizer()
    reference: LRScheduler = CosineAnnealingLR(stepped, T_max=TOTAL, eta_min=final)
    if name == "linear":
        reference = LinearLR(stepped, start_factor=1.0, end_factor=final, total_iters=TOTAL)
    for step in range(TOTAL + 1):
        found = lr_factor(config(name, final_share=final), step, TOTAL)
        assert found == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-12), step
        stepped.step()
        reference.step()


@pytest.mark.parametrize("warmup", [1, 8, 39])
def test_one_cycle_agrees_with_torch_at_each_step(warmup: int) -> None:
    """Its phases end at the peak and at the last step, which torch counts from 0."""
    schedule = config("one_cycle", warmup_steps=warmup, final_share=0.02, one_cycle_div=10.0)
    stepped = optimizer()
    reference = OneCycleLR(
        stepped,
        max_lr=1.0,
        total_steps=TOTAL + 1,
        pct_start=(warmup + 1) / (TOTAL + 1),
        div_factor=10.0,
        final_div_factor=5.0,  # of the beginning: 1 / 10 / 5 = 0.02
        cycle_momentum=False,
    )
    for step in range(TOTAL + 1):
        expected_lr = reference.get_last_lr()[0]
        assert lr_factor(schedule, step, TOTAL) == pytest.approx(expected_lr, rel=1e-12), step
        stepped.step()
        if step < TOTAL:
            reference.step()


METRICS = [1.0, 0.9, 0.95, 0.9, 0.89995, 0.91, 0.8, math.nan, 0.81, 0.9, 0.9, 0.7999, 1.0, 0.7]


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_agrees_with_torch_at_each_validation(mode: str, patience: int) -> None:
    schedule = config(
        "plateau", plateau_factor=0.3, plateau_patience=patience, final_share=0.01, warmup_steps=4
    )
    stepped = optimizer()
    reference = ReduceLROnPlateau(
        stepped,
        mode=mode,
        factor=0.3,
        patience=patience,
        min_lr=0.01,  # type: ignore[arg-type]
    )
    plateau, shares = Plateau(), []
    for value in METRICS * 2:
        reference.step(value)
        plateau.update(value, mode, schedule)
        shares.append(plateau.share)
        assert shares[-1] == pytest.approx(stepped.param_groups[0]["lr"], rel=1e-12)
    assert shares[-1] < 1
    assert lr_factor(schedule, 30, TOTAL) == 1.0  # the curve itself is flat


def test_a_plateau_begins_with_the_first_number() -> None:
    plateau = Plateau()
    plateau.update(math.nan, "min", config("plateau"))
    plateau.update(3.0, "min", config("plateau"))
    assert (plateau.best, plateau.since, plateau.share) == (3.0, 0, 1.0)


def test_a_plugin_adds_a_curve_with_options() -> None:
    curve = ScheduleCurve(
        after=lambda config, step, warmup, total: (warmup / step) ** config.option("power"),
        options={"power": 1.0},
    )
    SCHEDULES.register("power_law", curve)
    try:
        plain = config("power_law", warmup_steps=8)
        steep = config("power_law", warmup_steps=8, options={"power": 2.0})
        assert lr_factor(plain, 4, TOTAL) == lr_factor(steep, 4, TOTAL) == 0.5
        assert lr_factor(plain, 16, TOTAL) == 0.5
        assert lr_factor(steep, 16, TOTAL) == 0.25
        with pytest.raises(ValidationError, match=r"options\.powr: .*; did you mean power\?"):
            config("power_law", options={"powr": 2.0})
    finally:
        del SCHEDULES._entries["power_law"]


def test_an_unknown_schedule_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValidationError, match=r"schedule 'cosin' is unknown; did you mean cosine"):
        config("cosin")
    with pytest.raises(ValidationError, match=r"options\.power: schedule 'cosine' takes none"):
        config("cosine", options={"power": 1.0})


@pytest.mark.parametrize("name", ["linear", "cosine", "one_cycle"])
def test_the_final_share_is_reached_and_not_passed(name: str) -> None:
    schedule = config(name, final_share=0.25)
    for step in (TOTAL, TOTAL + 5):
        assert lr_factor(schedule, step, TOTAL) == pytest.approx(0.25, rel=1e-12)


def test_a_share_of_all_steps_is_rounded_to_steps() -> None:
    assert resolve_warmup(config("cosine", warmup_share=0.05), 130) == 6
    assert resolve_warmup(config("cosine", warmup_share=0.0), 130) == 0
    assert resolve_warmup(config("cosine"), 130) == 0
    assert lr_factor(config("cosine", warmup_share=0.2), 8, TOTAL) == 1.0


def test_two_warmups_contradict_and_both_are_named() -> None:
    with pytest.raises(ValidationError, match=r"warmup_steps 5 and warmup_share 0\.1 contradict"):
        config("cosine", warmup_steps=5, warmup_share=0.1)


def test_a_warmup_longer_than_the_training_is_refused_with_both_figures() -> None:
    schedule = config("cosine", warmup_steps=41)
    with pytest.raises(ConfigError, match=r"schedule\.warmup_steps = 41: .* which has 40 steps"):
        resolve_warmup(schedule, TOTAL)
    with pytest.raises(ValidationError, match=r"warmup_steps 9 .* max_steps 8"):
        TrainerConfig(max_steps=8, schedule=config("cosine", warmup_steps=9))


def test_early_stopping_without_validation_contradicts() -> None:
    settings = {"validate_every_epochs": 0, "early_stopping": {"patience": 1}}
    with pytest.raises(ValidationError, match="early_stopping needs validation"):
        TrainerConfig.model_validate(settings)
    TrainerConfig.model_validate(settings | {"validate_every_steps": 5})


def test_a_plateau_without_validation_contradicts() -> None:
    settings = {"validate_every_epochs": 0, "schedule": {"name": "plateau"}}
    with pytest.raises(ValidationError, match="schedule plateau needs validation"):
        TrainerConfig.model_validate(settings)
