"""How far predicted values lie from the true ones.

All take predictions and values of one shape, [samples] or [samples, outputs]. As in the loss, a
value that is NaN is missing and counts nowhere. Several outputs are averaged with equal weights,
and where the figure of one is undefined, so is the mean.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]


def mean_squared_error(predictions: Floats, values: Floats) -> float | None:
    """Mean of the squared errors over [samples] or [samples, outputs].

    Raises:
        ValueError: the shapes differ, or an output has no value; so do all functions here.
    """
    return _over_outputs(predictions, values, lambda p, v: float(np.mean((p - v) ** 2)))


def mean_absolute_error(predictions: Floats, values: Floats) -> float | None:
    """Mean of the absolute errors over [samples] or [samples, outputs]."""
    return _over_outputs(predictions, values, lambda p, v: float(np.mean(np.abs(p - v))))


def r2(predictions: Floats, values: Floats) -> float | None:
    """Share of the variance that is explained: 1 - squared errors / squared deviations.

    Of [samples], or the mean over the columns of [samples, outputs]. At most 1; 0 for the mean of
    the values; negative for worse; None where all values are equal: there is no variance to
    explain.
    """
    return _over_outputs(predictions, values, _r2)


def _r2(predictions: Float64s, values: Float64s) -> float | None:
    left = float(np.sum((predictions - values) ** 2))
    spread = float(np.sum((values - values.mean()) ** 2))
    if spread == 0:
        return None
    return 1 - left / spread


def pearson(predictions: Floats, values: Floats) -> float | None:
    """Pearson's correlation of [samples] or [samples, outputs], in -1..1.

    None where all predictions or all values of an output are equal.
    """
    return _over_outputs(predictions, values, _pearson)


def _pearson(predictions: Float64s, values: Float64s) -> float | None:
    if np.ptp(predictions) == 0 or np.ptp(values) == 0:
        return None
    p, v = predictions - predictions.mean(), values - values.mean()
    # Scaled by the largest first, so that squares neither overflow nor vanish.
    p, v = p / np.abs(p).max(), v / np.abs(v).max()
    return float(np.clip(p @ v / np.sqrt((p @ p) * (v @ v)), -1, 1))


def regression_report(predictions: Floats, values: Floats) -> dict[str, float | None]:
    """All figures of [samples] or [samples, outputs] under flat names: mse, mae, r2, pearson."""
    return {
        "mse": mean_squared_error(predictions, values),
        "mae": mean_absolute_error(predictions, values),
        "r2": r2(predictions, values),
        "pearson": pearson(predictions, values),
    }


def _over_outputs(
    predictions: Floats, values: Floats, metric: Callable[[Float64s, Float64s], float | None]
) -> float | None:
    if predictions.shape != values.shape or predictions.ndim not in (1, 2):
        raise ValueError(f"predictions {predictions.shape} do not fit values {values.shape}")
    # np.atleast_2d makes a single output one row, as the transposed outputs are.
    columns = np.atleast_2d(values.T).astype(np.float64)
    guesses = np.atleast_2d(predictions.T).astype(np.float64)
    figures: list[float | None] = []
    for number, (guess, column) in enumerate(zip(guesses, columns, strict=True)):
        there = ~np.isnan(column)
        if not there.any():
            raise ValueError(f"output {number}: has no value; the figure is undefined")
        figures.append(metric(guess[there], column[there]))
    defined = [figure for figure in figures if figure is not None]
    return float(np.mean(defined)) if len(defined) == len(figures) else None
