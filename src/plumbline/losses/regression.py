"""Losses of regression: one or several values per row."""

from typing import Protocol

from torch import Tensor

from plumbline.batch import LossSum


class ValueLoss(Protocol):
    """What the entries of `plumbline.kinds.regression.settings.VALUE_LOSSES` name."""

    def __call__(
        self, predictions: Tensor, values: Tensor, *, weights: Tensor | None = None
    ) -> LossSum:
        """Sum a loss over the values that are there; the count is the number of values.

        Args:
            predictions: [batch] or [batch, outputs], in deviations of the training.
            values: as the predictions; NaN where a value is missing and carries no loss.
            weights: as in `squared_error`.
        """
        ...


def squared_error(predictions: Tensor, values: Tensor, *, weights: Tensor | None = None) -> LossSum:
    """Sum squared errors over the values that are there; the count is the number of values.

    Args:
        predictions: [batch] or [batch, outputs], any float dtype; computed in float32.
        values: as the predictions; NaN where a value is missing and carries no loss.
        weights: what the squared errors are multiplied by, [batch] for those of a row or as the
            predictions; with mean 1 over the training samples. None weighs all 1.

    Raises:
        ValueError: the shapes disagree; [batch, 1] against [batch] is no exception, since
            broadcasting would compare every row with every other.
    """
    return _sum(_errors(predictions, values).square(), values, weights)


def absolute_error(
    predictions: Tensor, values: Tensor, *, weights: Tensor | None = None
) -> LossSum:
    """Sum absolute errors: what its minimum predicts is a median, which outliers hardly move.

    Predictions and values [batch] or [batch, outputs], weights, count and errors as in
    `squared_error`.
    """
    return _sum(_errors(predictions, values).abs(), values, weights)


def huber(
    predictions: Tensor, values: Tensor, *, weights: Tensor | None = None, delta: float = 1.0
) -> LossSum:
    """Sum half of squared errors up to `delta`, and beyond it what goes on as a straight line.

    Predictions and values [batch] or [batch, outputs], weights, count and errors as in
    `squared_error`; `delta` is in their units, which are deviations of the training.

    Source: Huber 1964, doi:10.1214/aoms/1177703732, section 4.
    """
    size = _errors(predictions, values).abs()
    within = size.clamp(max=delta)
    # Both pieces at once: within delta the second factor is half the error.
    return _sum(within * (size - within / 2), values, weights)


def _errors(predictions: Tensor, values: Tensor) -> Tensor:
    """Predictions less values in float32, [batch] or [batch, outputs]; 0 where none is there.

    Raises:
        ValueError: the shapes disagree.
    """
    if predictions.shape != values.shape or predictions.ndim not in (1, 2):
        raise ValueError(
            f"predictions {tuple(predictions.shape)} do not fit values {tuple(values.shape)}"
        )
    # A missing value is replaced before the subtraction: 0 * NaN would be NaN in the gradient.
    missing = values.isnan()
    return (predictions.float() - values.float().where(~missing, 0.0)).where(~missing, 0.0)


def _sum(terms: Tensor, values: Tensor, weights: Tensor | None) -> LossSum:
    if weights is not None:
        if weights.shape not in (terms.shape[:1], terms.shape):
            raise ValueError(f"weights {tuple(weights.shape)} do not fit {len(terms)} rows")
        # Weights of rows [batch] meet [batch, outputs] along the rows, not the outputs.
        terms = terms * weights.to(terms).view(*weights.shape, *[1] * (terms.ndim - weights.ndim))
    return LossSum(terms.sum(), (~values.isnan()).sum())
