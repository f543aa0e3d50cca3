"""Token losses agree with loops written by hand, and divide well over micro-batches."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from plumbline.batch import IGNORE_INDEX
from plumbline.losses.language import token_cross_entropy

VOCAB = 11


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [4, 6, vocab] and labels [4, 6] of which some carry no loss."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 6, VOCAB, generator=random, requires_grad=True)
    labels = torch.randint(0, VOCAB, (4, 6), generator=random)
    labels[0, 2:] = IGNORE_INDEX  # unequal lengths are what breaks a mean of means
    labels[2, 0] = IGNORE_INDEX
    return logits, labels


def by_hand(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[float, int]:
    total, count = 0.0, 0
    for row, label in zip(
        logits.reshape(-1, VOCAB).tolist(), labels.flatten().tolist(), strict=True
    ):
        if label == IGNORE_INDEX:
            continue
        log_sum = math.log(sum(math.exp(v) for v in row))
        nll = [log_sum - v for v in row]
        total += (1 - smoothing) * nll[label] + smoothing * sum(nll) / VOCAB
        count += 1
    return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_equals_a_loop_over_the_labels_that_count(smoothing: float) -> None:
    logits, labels = example()
    loss = token_cross_entropy(logits, labels, label_smoothing=smoothing)
    total, count = by_hand(logits, labels, smoothing)
    assert loss.total.item() == pytest.approx(total, rel=1e-6)
    assert loss.count.item() == count == 19


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_uniform_logits_cost_log_vocab(smoothing: float) -> None:
    labels = torch.tensor([[3, IGNORE_INDEX, 5]])
    loss = token_cross_entropy(torch.full((1, 3, VOCAB), 7.0), labels, label_smoothing=smoothing)
    assert loss.total.item() / loss.count.item() == pytest.approx(math.log(VOCAB), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_ignored_costs_nothing_and_moves_nothing(smoothing: float) -> None:
    logits, labels = example()
    loss = token_cross_entropy(
        logits, torch.full_like(labels, IGNORE_INDEX), label_smoothing=smoothing
    )
    assert loss.total.item() == 0.0
    assert loss.count.item() == 0
    (gradient,) = grad(loss.total, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(logits), rtol=0, atol=0)


def test_no_position_at_all_costs_nothing() -> None:
    logits = torch.zeros(0, VOCAB, requires_grad=True)
    loss = token_cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    assert (loss.total.item(), loss.count.item()) == (0.0, 0)
    (gradient,) = grad(loss.total, logits)
    assert gradient.shape == (0, VOCAB)


def test_micro_batches_give_the_gradient_of_one_batch() -> None:
    logits, labels = example()
    first, second = (token_cross_entropy(logits[i : i + 2], labels[i : i + 2]) for i in (0, 2))
    split = (first.total + second.total) / (first.count + second.count)
    whole = token_cross_entropy(logits, labels)
    torch.testing.assert_close(split, whole.total / whole.count, rtol=1e-6, atol=0)
    (expected,) = grad(whole.total / whole.count, logits)
    (gradient,) = grad(split, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_the_softmax_runs_in_float32_for_half_precision_logits() -> None:
    logits, labels = example()
    half = logits.detach().to(torch.bfloat16)
    loss = token_cross_entropy(half, labels)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, token_cross_entropy(half.float(), labels).total)


def test_an_ignored_position_has_no_gradient() -> None:
    """Elsewhere it is the softmax less the label."""
    logits, labels = example()
    (gradient,) = grad(token_cross_entropy(logits, labels).total, logits)
    ignored = labels == IGNORE_INDEX
    assert not gradient[ignored].any()
    off = logits.detach().softmax(dim=-1)[~ignored] - functional.one_hot(labels[~ignored], VOCAB)
    torch.testing.assert_close(gradient[~ignored], off, rtol=1e-5, atol=1e-6)


def test_shapes_that_disagree_are_told() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 3, 11\) do not fit labels \(2, 4\)"):
        token_cross_entropy(torch.zeros(2, 3, VOCAB), torch.zeros(2, 4, dtype=torch.long))


def test_a_masked_token_is_compared_with_the_label_in_its_own_place() -> None:
    labels = torch.tensor([[IGNORE_INDEX, 4, IGNORE_INDEX, 7]])
    logits = torch.zeros(1, 4, VOCAB)
    logits[0, 1, 4] = logits[0, 3, 7] = 50.0
    assert token_cross_entropy(logits, labels).total.item() == pytest.approx(0.0, abs=1e-6)
    # One place off, what is said there knows nothing.
    shifted = token_cross_entropy(logits.roll(-1, dims=1), labels).total.item()
    assert shifted == pytest.approx(2 * math.log(VOCAB), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_mixes_the_label_with_the_uniform_distribution(smoothing: float) -> None:
    logits, labels = example()
    there = labels != IGNORE_INDEX
    target = torch.full((int(there.sum()), VOCAB), smoothing / VOCAB)
    target.scatter_(1, labels[there].unsqueeze(1), 1 - smoothing + smoothing / VOCAB)
    expected = -(target * logits[there].log_softmax(-1)).sum()
    total = token_cross_entropy(logits, labels, label_smoothing=smoothing).total
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    if not smoothing:
        plain = functional.cross_entropy(logits[there], labels[there], reduction="sum")
        torch.testing.assert_close(total, plain, rtol=1e-6, atol=0)
