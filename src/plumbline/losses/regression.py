"""Losses of regression: one or several values per row."""

from torch import Tensor

from plumbline.batch import LossSum


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
    terms = squared_error_terms(predictions, values, weights=weights)
    return LossSum(terms.sum(), (~values.isnan()).sum())


def squared_error_terms(
    predictions: Tensor, values: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Compute what each value adds to `squared_error`: [batch] or [batch, outputs].

    A missing value adds 0.
    """
    if predictions.shape != values.shape or predictions.ndim not in (1, 2):
        raise ValueError(
            f"predictions {tuple(predictions.shape)} do not fit values {tuple(values.shape)}"
        )
    if weights is not None and weights.shape not in (predictions.shape[:1], predictions.shape):
        raise ValueError(f"weights {tuple(weights.shape)} do not fit {len(predictions)} rows")
    # A missing value is replaced before the subtraction: 0 * NaN would be NaN in the gradient.
    missing = values.isnan()
    errors = predictions.float() - values.float().where(~missing, 0.0)
    terms = errors.where(~missing, 0.0).square()
    if weights is None:
        return terms
    # Weights of rows [batch] meet [batch, outputs] along the rows, not the outputs.
    return terms * weights.to(terms).view(*weights.shape, *[1] * (terms.ndim - weights.ndim))
