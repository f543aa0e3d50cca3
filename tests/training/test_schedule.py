"""Every curve follows its formula at every step, and peaks exactly where it is told to."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import ConfigError
from plumbline.training.config import ScheduleConfig, TrainerConfig
from plumbline.training.schedule import lr_factor, resolve_warmup

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


NAMES = ["constant", "linear", "cosine", "inverse_sqrt"]


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
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
    assert all(factor < 1 for factor in factors[:warmup])
    assert all(factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize("name", ["linear", "cosine"])
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
