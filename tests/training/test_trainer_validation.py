"""The best weights win, early stopping stops when it should, and only a finite value is best."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from plumbline.batch import LossSum
from plumbline.errors import ConfigError, TrainingError
from plumbline.files import read_json, verify_digests
from plumbline.metrics.known import METRICS, Metric
from plumbline.training.clock import Best, Clock
from plumbline.training.config import TrainerConfig
from plumbline.training.length import count_validations, epoch_ends
from plumbline.training.stopping import Waiting
from plumbline.training.task import no_metrics, perplexity_of

NAN = math.nan
NEVER = {"validate_every_epochs": 0}
SCORE = {"monitor": "score", "mode": "min"}
"""Of a metric that no table knows."""


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def after_epochs(toy: Any, epochs: int) -> dict[str, Tensor]:
    """Weights after so many epochs, validation apart: the schedule is constant."""
    trainer = toy.trainer(epochs=epochs, validate_every_epochs=0, validation=None)
    trainer.fit()
    return state(trainer.model)


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 2),
        ([3.0, 1.0, 2.0], "max", 1),
        ([1.0, 1.0, 1.0], "min", 1),
        ([1.0, 1.0, 1.0], "max", 1),
        ([1.0, 2.0, 2.0], "max", 2),
    ],
)
def test_the_model_ends_with_its_best_weights_and_the_first_of_equals(
    make_toy: Callable[[], Any], values: list[float], mode: str, best: int
) -> None:
    toy = make_toy()
    trainer = toy.trainer(task=toy.scripted(values), epochs=3, **SCORE | {"mode": mode})
    result = trainer.fit()
    assert (result.best.epoch, result.best.value) == (best, values[best - 1])
    assert result.best.global_step == best * 5
    assert same(state(trainer.model), after_epochs(make_toy(), best))
    stored = read_json(toy.folder / "best/best.json")
    assert (stored["value"], stored["epoch"]) == (values[best - 1], best)
    verify_digests(toy.folder / "best")


@pytest.mark.parametrize(
    ("values", "best"), [([NAN, 3.0, NAN], 2), ([2.0, NAN, 3.0], 1), ([math.inf, NAN, 5.0], 3)]
)
def test_only_a_finite_value_is_best(
    make_toy: Callable[[], Any], values: list[float], best: int
) -> None:
    toy = make_toy()
    trainer = toy.trainer(task=toy.scripted(values), epochs=3, **SCORE)
    result = trainer.fit()
    assert result.best.epoch == best
    assert same(state(trainer.model), after_epochs(make_toy(), best))


def test_validations_without_any_number_end_in_an_error_that_says_so(toy: Any) -> None:
    trainer = toy.trainer(task=toy.scripted([NAN, NAN]), epochs=2, **SCORE)
    with pytest.raises(TrainingError, match="score"):
        trainer.fit()


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_value_is_kept_by_its_rule(mode: str) -> None:
    sign = 1 if mode == "min" else -1
    best, clock = Best(), Clock(global_step=7, epoch=2)
    assert not best.update(NAN, mode, clock)
    assert best.value is None
    assert best.update(sign * 5.0, mode, clock)
    assert not best.update(sign * 5.0, mode, clock)
    assert not best.update(NAN, mode, clock)
    assert best.update(sign * 4.5, mode, clock)
    assert (best.value, best.global_step, best.epoch) == (sign * 4.5, 7, 2)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_too_small_a_change_is_waited_for(mode: str) -> None:
    sign, waiting, since = 1 if mode == "min" else -1, Waiting(), []
    for value in (NAN, 5.0, 4.9, NAN, 4.6, 4.4, 4.4, 3.0):
        waiting.update(sign * value, mode, 0.5)
        since.append(waiting.since)
    assert since == [1, 0, 1, 2, 3, 0, 1, 0]


@pytest.mark.parametrize(
    ("values", "patience", "min_change", "stops_after"),
    [
        ([5, 4, 4, 4, 4, 4], 2, 0.0, 4),
        ([5, 4, 3, 2, 1, 0], 1, 0.0, 6),
        ([5, 6, 4, 5, 5, 5], 2, 0.0, 5),
        ([5, 4.9, 4.8, 4.7, 4.6, 4.5], 2, 0.5, 3),
        ([5, 4.4, 4.3, 3.8, 3.7, 3.6], 2, 0.5, 6),
    ],
)
def test_early_stopping_stops_after_the_expected_epoch(
    toy: Any, values: list[float], patience: int, min_change: float, stops_after: int
) -> None:
    stopping = {"patience": patience, "min_change": min_change}
    task = toy.scripted([float(v) for v in values])
    result = toy.trainer(task=task, epochs=6, early_stopping=stopping, **SCORE).fit()
    assert result.clock.epoch == stops_after
    assert len(result.history.validations) == stops_after


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 4, [4]), (2, 4, [2, 4])],
)
def test_validation_comes_every_so_many_epochs_and_always_at_the_end(
    toy: Any, every: int, epochs: int, expected: list[int]
) -> None:
    result = toy.trainer(epochs=epochs, validate_every_epochs=every).fit()
    assert [row["epoch"] for row in result.history.validations] == expected


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [
        (2, 1, [2, 4, 5, 6, 8, 10]),  # 10 is a second step and the end of an epoch: once
        (2, 0, [2, 4, 6, 8, 10]),
        (3, 0, [3, 6, 9, 10]),
        (5, 1, [5, 10]),
        (99, 0, [10]),
        (4, 2, [4, 8, 10]),
    ],
)
def test_validation_comes_every_so_many_steps_and_never_twice(
    toy: Any, steps: int, epochs: int, expected: list[int]
) -> None:
    settings = {"validate_every_steps": steps, "validate_every_epochs": epochs}
    trainer = toy.trainer(epochs=2, **settings)
    planned = epoch_ends(trainer._train, trainer._config)
    result = trainer.fit()
    assert [row["global_step"] for row in result.history.validations] == expected
    assert count_validations(planned, trainer._config) == len(expected)
    assert [row["epoch"] for row in result.history.validations] == [s // 5 for s in expected]
    assert [s for s, v in toy.log if "val/loss" in v] == expected


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_that_outlasts_the_training_is_refused_before_its_first_step(
    toy: Any, patience: int
) -> None:
    settings = {"validate_every_steps": 2, "early_stopping": {"patience": patience}}
    if patience == 1:  # 5 steps: validations after 2, 4 and 5
        toy.trainer(**settings)
        return
    with pytest.raises(
        ConfigError,
        match=r"^trainer\.early_stopping\.patience 2 can never run out before the end of 3 valida",
    ):
        toy.trainer(**settings)


def test_a_step_that_is_none_is_not_validated_again(toy: Any) -> None:
    calls = iter(range(100))

    def without_targets(batch: Any, loss: LossSum) -> LossSum:
        keep = int(next(calls) in (0, 4))  # calls 1 and 5 are validations, of 1 batch each
        return LossSum(loss.total * keep, loss.count * keep)

    task = toy.spoilt(without_targets)
    result = toy.trainer(task=task, validation=4, validate_every_steps=1, epochs=1).fit()
    assert [row["global_step"] for row in result.history.validations] == [1, 2]


def test_early_stopping_stops_within_an_epoch(make_toy: Callable[[], Any]) -> None:
    toy = make_toy()
    task = toy.scripted([1.0, 2.0, 3.0, 4.0])
    settings = {"validate_every_steps": 2, "validate_every_epochs": 0, **SCORE}
    trainer = toy.trainer(task=task, samples=80, early_stopping={"patience": 2}, **settings)
    result = trainer.fit()
    assert (result.clock.global_step, result.best.global_step) == (6, 2)
    other = make_toy().trainer(samples=80, max_steps=2, validate_every_epochs=0)
    other.fit()
    assert same(state(trainer.model), state(other.model))


def test_a_plateau_of_the_monitored_metric_lowers_the_rate(toy: Any) -> None:
    schedule = {
        "name": "plateau",
        "warmup_steps": 5,
        "plateau_patience": 1,
        "plateau_factor": 0.5,
    }
    task = toy.scripted([3.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    result = toy.trainer(task=task, epochs=6, schedule=schedule, optim={"lr": 0.8}, **SCORE).fit()
    rates = [row["lr"] for row in result.history.steps]
    assert rates[:5] == pytest.approx([0.0, 0.16, 0.32, 0.48, 0.64])
    # The second validation without an improvement ends the fourth epoch.
    assert rates[5:] == pytest.approx([0.8] * 15 + [0.4] * 10, rel=1e-12)


def test_a_plateau_does_not_count_validations_of_the_warmup(toy: Any) -> None:
    schedule = {"name": "plateau", "warmup_steps": 10, "plateau_patience": 0}
    task = toy.scripted([1.0, 2.0, 3.0])
    result = toy.trainer(task=task, epochs=3, schedule=schedule, optim={"lr": 0.1}, **SCORE).fit()
    assert [row["lr"] for row in result.history.steps[10:]] == pytest.approx([0.1] * 5, rel=1e-12)


def test_without_validation_the_last_weights_stand(make_toy: Callable[[], Any]) -> None:
    trainer = make_toy().trainer(epochs=3, validate_every_epochs=0, validation=None)
    result = trainer.fit()
    assert result.history.validations == []
    assert result.best.value is None
    ignored = make_toy().trainer(epochs=3, validate_every_epochs=0, validation=7)
    ignored.fit()
    assert same(state(trainer.model), state(ignored.model))


@pytest.mark.parametrize("validation", [None, 0])
def test_validation_without_data_names_the_setting(toy: Any, validation: int | None) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.validate_every_epochs: no validation sample"):
        toy.trainer(validation=validation)


def test_a_metric_that_the_task_does_not_make_names_those_that_it_makes(toy: Any) -> None:
    message = r"trainer\.monitor = 'scor': .*there is loss, score"
    trainer = toy.trainer(task=toy.scripted([1.0]), monitor="scor", mode="min")
    with pytest.raises(ConfigError, match=message):
        trainer.fit()
    known = replace(toy.scripted([1.0]), metric_names=["score"])
    with pytest.raises(ConfigError, match=message):
        toy.trainer(task=known, monitor="scor", mode="min")  # before training begins
    with pytest.raises(ConfigError, match=r"'accuracy': .*on this data; there is loss$"):
        toy.trainer(monitor="accuracy")
    watched = {"metrics": {"loss": {"patience": 1}, "accuracy": {"patience": 1}}}
    with pytest.raises(ConfigError, match=r"early_stopping\.metrics\.accuracy = 'accuracy': "):
        toy.trainer(epochs=3, early_stopping=watched)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("accuracy", [0.2, 0.9, 0.5], 2),
        ("pain/macro_f1", [0.2, 0.9, 0.5], 2),
        ("mean_accuracy", [0.2, 0.9, 0.5], 2),
        ("image_to_text_recall_at_5_width_32", [0.2, 0.9, 0.5], 2),
        ("perplexity", [5.0, 3.0, 4.0], 2),
        ("mse", [5.0, 3.0, 4.0], 2),
    ],
)
def test_which_way_is_better_follows_from_the_metric(
    toy: Any, metric: str, values: list[float], best: int
) -> None:
    stopping = {"patience": 1}
    task = toy.scripted([*values, values[0]], metric)
    result = toy.trainer(task=task, epochs=4, monitor=metric, early_stopping=stopping).fit()
    assert (result.best.epoch, result.best.value) == (best, values[best - 1])
    assert result.clock.epoch == best + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "accuracy", "mode": "min"}, "monitor 'accuracy' is better when higher, but"),
        ({"monitor": "a/log_loss", "mode": "max"}, "'a/log_loss' is better when lower, but mode"),
        ({"mode": "max"}, "monitor 'loss' is better when lower, but mode is max"),
        ({"monitor": "acuracy"}, r"'acuracy' is no metric .*did you mean 'accuracy'\?.*set mode"),
        ({"monitor": "score"}, "'score' is no metric that is known: set mode to min or max"),
        ({"early_stopping": {}}, "patience, for the monitored metric, or metrics"),
        (
            {"early_stopping": {"patience": 1, "metrics": {"loss": {"patience": 1}}}},
            "set one of them",
        ),
        (
            {"early_stopping": {"metrics": {"accuracy": {"patience": 1, "mode": "min"}}}},
            "'accuracy' is better when higher, but mode is min",
        ),
    ],
)
def test_a_direction_that_contradicts_the_metric_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainerConfig.model_validate(settings)


def test_a_plugin_may_say_which_way_its_metric_is_better() -> None:
    METRICS.register("f2_of_the_plugin", Metric("max"))
    assert TrainerConfig(monitor="f2_of_the_plugin").direction == "max"


@pytest.mark.parametrize(
    ("patience", "stops_after"),
    [((1, 1), 4), ((2, 1), 5), ((1, 3), 5), ((5, 1), 7)],
)
def test_training_stops_when_every_watched_metric_has_stopped_improving(
    toy: Any, patience: tuple[int, int], stops_after: int
) -> None:
    """Perplexity improves until epoch 3, accuracy in 1 and 2 alone."""
    perplexities, accuracies = [9, 8, 7, 7, 7, 7, 7], [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    script = zip(perplexities, accuracies, strict=True)
    task = replace(
        toy.scripted([]),
        validation_metrics=lambda model: dict(
            zip(("perplexity", "accuracy"), next(script), strict=True)
        ),
    )
    stopping = {
        "metrics": {
            "perplexity": {"patience": patience[0]},
            "accuracy": {"patience": patience[1], "min_change": 0.01},
        }
    }
    result = toy.trainer(task=task, epochs=7, early_stopping=stopping).fit()
    assert result.clock.epoch == stops_after


def test_what_early_stopping_has_in_mind_survives_a_kill(
    make_toy: Callable[[], Any], killed: type[Exception]
) -> None:
    """It stops after the epoch where a run that nobody killed stops."""
    values = [0.5, 0.6, 0.6, 0.6, 0.9]
    settings = {"epochs": 5, "early_stopping": {"metrics": {"accuracy": {"patience": 2}}}}
    whole = make_toy()
    expected = whole.trainer(task=whole.scripted(values, "accuracy"), **settings).fit()
    toy = make_toy()
    task = toy.scripted(values, "accuracy")
    with pytest.raises(killed):  # in the first step of epoch 4, after 5 steps and 1 validation each
        toy.trainer(task=task, on_log=toy.killed_at(3 * 6), **settings).fit()
    result = toy.trainer(task=task, **settings).fit()
    assert result.clock.epoch == expected.clock.epoch == 4


def test_a_figure_that_has_no_value_is_left_out_and_stops_nothing(
    toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss of 800 nats has no perplexity that a float holds; the next validation has one."""
    losses = iter([0.0, 800.0, 1.0, 2.0, 3.0])  # the first one for the names of the metrics
    task = replace(
        toy.scripted([]),
        validation_metrics=no_metrics,
        loss_metrics=lambda loss: perplexity_of(next(losses)),
    )
    settings = {"epochs": 4, "monitor": "perplexity", "early_stopping": {"patience": 2}}
    result = toy.trainer(task=task, **settings).fit()
    rows = result.history.validations
    assert [row.get("perplexity") for row in rows] == [
        None,
        pytest.approx(math.e),
        pytest.approx(math.e**2),
        pytest.approx(math.e**3),
    ]
    assert result.best.epoch == 2
    assert sum("perplexity is left out: the loss is so high" in m for m in caplog.messages) == 1
    result.history.write(toy.folder)
    assert (toy.folder / "val.csv").read_text(encoding="utf-8").splitlines()[1].endswith(",")


def test_validation_changes_nothing_about_the_training(make_toy: Callable[[], Any]) -> None:
    weights = []
    for settings in ({"validate_every_epochs": 0}, {"mode": "max", "monitor": "score"}):
        toy = make_toy()
        rising = toy.scripted([1.0, 2.0, 3.0])  # so the last weights are the best
        trainer = toy.trainer(toy.regressor(dropout=0.3), task=rising, epochs=3, **settings)
        trainer.fit()
        weights.append(state(trainer.model))
    assert same(*weights)


def test_the_validation_loss_is_per_target_over_all_batches(make_toy: Callable[[], Any]) -> None:
    """Of the weights at the end of each epoch."""
    settings = {"validation": 7, "batch_size": 3}
    toy = make_toy()
    rows = toy.trainer(epochs=3, **settings).fit().history.validations
    points, expected = toy.points(7, seed=1), []
    for epoch in (1, 2, 3):
        trainer = make_toy().trainer(epochs=epoch, **settings | {"validation": None}, **NEVER)
        trainer.fit()
        with torch.no_grad():
            errors = (trainer.model.eval()(points.x).squeeze(1) - points.y).square()
        expected.append(errors[points.counts].mean().item())
    assert [row["loss"] for row in rows] == pytest.approx(expected, rel=1e-12)
