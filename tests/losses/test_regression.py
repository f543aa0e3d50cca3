"""The losses of regression agree with torch and leave missing values alone."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from plumbline.losses.regression import (
    ValueLoss,
    absolute_error,
    huber,
    squared_error,
)

SHAPES = [(8,), (8, 3)]


def example(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    predictions = torch.randn(shape, generator=random, requires_grad=True)
    return predictions, torch.randn(shape, generator=random)


TORCH = {
    squared_error: functional.mse_loss,
    absolute_error: functional.l1_loss,
    huber: functional.huber_loss,
}
LOSSES = pytest.mark.parametrize("loss_of", TORCH)


@LOSSES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", ["no", "rows", "values", "one"])
def test_every_loss_equals_that_of_torch(
    loss_of: ValueLoss, shape: tuple[int, ...], weighted: str
) -> None:
    predictions, values = example(shape)
    weights = {
        "no": None,
        "rows": torch.arange(8.0) / 4,
        "values": torch.arange(float(values.numel())).view(shape),
        "one": torch.eye(values.numel())[3].view(shape),  # its term alone
    }[weighted]
    loss = loss_of(predictions, values, weights=weights)
    terms = TORCH[loss_of](predictions, values, reduction="none")  # type: ignore[index]
    if weights is not None:
        terms = terms * weights.view(*weights.shape, *[1] * (len(shape) - weights.ndim))
    torch.testing.assert_close(loss.total, terms.sum(), rtol=1e-6, atol=1e-6)
    assert loss.count.item() == values.numel()
    (ours,), (theirs,) = (grad(total, predictions) for total in (loss.total, terms.sum()))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("delta", [0.25, 1.0, 3.0])
def test_beyond_delta_huber_is_a_straight_line(delta: float) -> None:
    predictions = torch.linspace(-4, 4, 33).requires_grad_()
    total = huber(predictions, torch.zeros(33), delta=delta).total
    expected = functional.huber_loss(predictions, torch.zeros(33), delta=delta, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)
    (gradient,) = grad(total, predictions)
    torch.testing.assert_close(gradient, predictions.detach().clamp(-delta, delta))


@LOSSES
def test_a_missing_value_pulls_nothing_in_any_loss(loss_of: ValueLoss) -> None:
    predictions, values = example((8, 3))
    values[2] = math.nan
    loss = loss_of(predictions, values)
    assert loss.count.item() == 21
    (gradient,) = grad(loss.total, predictions)
    assert not gradient[2].any()
    assert gradient[[0, 1, 3]].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_missing_value_neither_counts_nor_pulls(shape: tuple[int, ...]) -> None:
    predictions, values = example(shape)
    values.view(-1)[[1, 5]] = math.nan
    there = ~values.isnan()
    loss = squared_error(predictions, values, weights=torch.ones(8))
    expected = (predictions[there] - values[there]).square().sum()
    torch.testing.assert_close(loss.total, expected, rtol=1e-6, atol=0)
    assert loss.count.item() == values.numel() - 2
    (gradient,) = grad(loss.total, predictions)
    assert not gradient[~there].any()
    torch.testing.assert_close(gradient[there], 2 * (predictions - values)[there].detach())


@pytest.mark.parametrize("shape", [*SHAPES, (0,), (0, 3)])
def test_all_missing_costs_nothing_and_moves_nothing(shape: tuple[int, ...]) -> None:
    predictions, _ = example(shape)
    loss = squared_error(predictions, torch.full(shape, math.nan))
    assert (loss.total.item(), loss.count.item()) == (0.0, 0)
    assert torch.equal(grad(loss.total, predictions)[0], torch.zeros(shape))


def test_micro_batches_give_the_gradient_of_one_batch() -> None:
    predictions, values = example((8,))
    values[:2] = math.nan
    first, second = (squared_error(predictions[c], values[c]) for c in (slice(3), slice(3, 8)))
    split = (first.total + second.total) / (int(first.count) + int(second.count))
    whole = squared_error(predictions, values)
    torch.testing.assert_close(
        grad(split, predictions), grad(whole.total / 6, predictions), rtol=1e-6, atol=0
    )


def test_a_row_of_weight_two_pulls_as_the_row_given_twice() -> None:
    predictions, values = example((8, 3))
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 2.0, 1.0, 0.0, 1.0])
    values[4, 1] = math.nan
    rows = torch.arange(8).repeat_interleave(weights.long())
    weighted = squared_error(predictions, values, weights=weights).total
    repeated = squared_error(predictions[rows], values[rows]).total
    torch.testing.assert_close(weighted, repeated, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        grad(weighted, predictions), grad(repeated, predictions), rtol=1e-6, atol=0
    )


def test_half_precision_is_computed_in_float32() -> None:
    predictions, values = example((8,))
    loss = squared_error(predictions.bfloat16(), values.double())
    assert loss.total.dtype == torch.float32
    exact = (predictions.bfloat16().double() - values.double()).square().sum().item()
    assert loss.total.item() == pytest.approx(exact, rel=1e-6)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions \(8, 1\) do not fit values \(8,\)"):
        squared_error(torch.zeros(8, 1), torch.zeros(8))
    with pytest.raises(ValueError, match=r"weights \(3,\) do not fit 8 rows"):
        squared_error(torch.zeros(8, 3), torch.zeros(8, 3), weights=torch.ones(3))
    with pytest.raises(ValueError, match="do not fit"):
        squared_error(torch.tensor(1.0), torch.tensor(1.0))
