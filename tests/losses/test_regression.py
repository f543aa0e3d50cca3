"""The squared error agrees with torch and leaves missing values alone."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from plumbline.losses.regression import squared_error, squared_error_terms

SHAPES = [(8,), (8, 3)]


def example(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    predictions = torch.randn(shape, generator=random, requires_grad=True)
    return predictions, torch.randn(shape, generator=random)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", ["no", "rows", "values"])
def test_every_reduction_equals_torch(
    shape: tuple[int, ...], reduction: str, weighted: str
) -> None:
    predictions, values = example(shape)
    weights = {
        "no": None,
        "rows": torch.arange(8.0) / 4,
        "values": torch.arange(float(values.numel())).view(shape),
    }[weighted]
    loss = squared_error(predictions, values, weights=weights)
    ours = {
        "none": squared_error_terms(predictions, values, weights=weights),
        "sum": loss.total,
        "mean": loss.total / loss.count,
    }[reduction]
    terms = functional.mse_loss(predictions, values, reduction="none")
    if weights is not None:
        terms = terms * weights.view(*weights.shape, *[1] * (len(shape) - weights.ndim))
    expected = {"none": terms, "sum": terms.sum(), "mean": terms.mean()}[reduction]
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


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
