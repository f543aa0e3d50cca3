"""Regression figures agree with scikit-learn and scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from numpy.typing import NDArray

from plumbline.metrics.regression import (
    mean_absolute_error,
    mean_squared_error,
    pearson,
    r2,
    regression_report,
)

Floats = NDArray[np.float64]
SHAPES = [(60,), (60, 3)]


def example(shape: tuple[int, ...], seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 3 + 40
    return values + rng.standard_normal(shape), values


@pytest.mark.parametrize("shape", SHAPES)
def test_figures_equal_those_of_the_libraries(shape: tuple[int, ...]) -> None:
    predictions, values = example(shape)
    columns = zip(predictions.reshape(60, -1).T, values.reshape(60, -1).T, strict=True)
    correlation = np.mean([scipy.stats.pearsonr(p, v).statistic for p, v in columns])
    expected = {
        "mse": sklearn.metrics.mean_squared_error(values, predictions),
        "mae": sklearn.metrics.mean_absolute_error(values, predictions),
        "r2": sklearn.metrics.r2_score(values, predictions),
        "pearson": correlation,
    }
    report = regression_report(predictions, values)
    assert report == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in report.values())


def test_missing_values_count_nowhere() -> None:
    predictions, values = example((60, 3))
    values[[4, 9], 1] = math.nan
    there = np.delete(np.arange(60), [4, 9])
    for figure in (mean_squared_error, mean_absolute_error, r2, pearson):
        singles = [figure(predictions[:, c], values[:, c]) for c in (0, 2)]
        singles.append(figure(predictions[there, 1], values[there, 1]))
        assert figure(predictions, values) == pytest.approx(np.mean(singles), abs=1e-12)


def test_r2_is_nothing_for_the_mean_and_negative_for_worse() -> None:
    _, values = example((60,))
    assert r2(np.full(60, values.mean()), values) == pytest.approx(0, abs=1e-12)
    # Off by 5 everywhere, so by 25 over the variance.
    off = r2(np.full(60, values.mean() + 5), values)
    assert off == pytest.approx(-25 / values.var(), rel=1e-12)
    assert r2(values, values) == 1.0


def test_equal_values_have_no_variance_to_explain() -> None:
    same, rising = np.full(4, 2.5), np.arange(4.0)
    for predictions in (same, same + 1, rising):
        assert r2(predictions, same) is None
        assert pearson(predictions, same) is None
    assert pearson(same, rising) is None
    both = np.stack([same, rising], axis=1)
    assert r2(both, both) is None


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_correlation_does_not_depend_on_the_scale(scale: float) -> None:
    predictions, values = example((60,))
    assert pearson(values * scale, values) == pytest.approx(1.0, abs=1e-12)
    assert pearson(-values * scale, values) == pytest.approx(-1.0, abs=1e-12)
    scaled = pearson(predictions * scale, values)
    assert scaled == pytest.approx(pearson(predictions, values), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_other_units_scale_the_errors_and_leave_the_shares(shape: tuple[int, ...]) -> None:
    predictions, values = example(shape)
    before = regression_report(predictions, values)
    expected = {"mse": 9, "mae": 3, "r2": 1, "pearson": 1}
    after = regression_report(7 - 3 * predictions, 7 - 3 * values)
    ratios = {name: after[name] / before[name] for name in expected}  # type: ignore[operator]
    assert ratios == pytest.approx(expected, rel=1e-12)


def test_float32_is_summed_in_float64() -> None:
    predictions = np.full(1000, 0.1, dtype=np.float32)
    values = np.zeros(1000, dtype=np.float32)
    assert mean_absolute_error(predictions, values) == pytest.approx(float(np.float32(0.1)), 1e-12)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions \(3, 1\) do not fit values \(3,\)"):
        mean_squared_error(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="output 1: has no value"):
        r2(np.zeros((2, 2)), np.array([[0.0, math.nan], [1.0, math.nan]]))
    with pytest.raises(ValueError, match="output 0: has no value"):
        pearson(np.zeros(0), np.zeros(0))
