"""Classification losses agree with torch and with formulas, and add up over micro-batches."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from plumbline.batch import IGNORE_INDEX
from plumbline.errors import ConfigError
from plumbline.kinds.classification.settings import CLASS_LOSSES
from plumbline.losses.class_weights import class_weights
from plumbline.losses.classification import (
    ClassLoss,
    class_cross_entropy,
    cross_entropy_terms,
    focal_loss,
)
from plumbline.registry import load_attribute

BATCH, CLASSES = 12, 5
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])
LOSSES: list[ClassLoss] = [class_cross_entropy, focal_loss]


def example() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(BATCH, CLASSES, generator=random)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=random)
    labels[[2, 7]] = IGNORE_INDEX
    return logits.requires_grad_(), labels


def weighted_sum_by_hand(
    logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float, gamma: float = 0.0
) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label == IGNORE_INDEX:
            continue
        log_sum = math.log(math.fsum(math.exp(v) for v in row))
        terms = [
            w * (log_sum - v) * (1 - math.exp(v - log_sum)) ** gamma
            for v, w in zip(row, weights.tolist(), strict=True)
        ]
        total += (1 - smoothing) * terms[label] + smoothing * math.fsum(terms) / CLASSES
    return total


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_every_reduction_equals_torch(
    reduction: str, smoothing: float, weights: Tensor | None
) -> None:
    logits, labels = example()
    loss = class_cross_entropy(logits, labels, weights=weights, label_smoothing=smoothing)
    ours = {
        "none": cross_entropy_terms(logits, labels, weights=weights, label_smoothing=smoothing),
        "sum": loss.total,
        "mean": loss.total / loss.count,
    }[reduction]
    expected = functional.cross_entropy(
        logits,
        labels,
        weight=weights,
        ignore_index=IGNORE_INDEX,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    if reduction == "mean" and weights is not None:
        # torch divides by the weights of this batch, ours by its rows: see the next test.
        expected = expected * weights[labels[labels != IGNORE_INDEX]].mean()
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_over_the_whole_training_set_the_weighted_mean_is_that_of_torch() -> None:
    logits, labels = example()
    counted = labels[labels != IGNORE_INDEX]
    scaled = class_weights(WEIGHTS.tolist(), counted.bincount(minlength=CLASSES).tolist())
    loss = class_cross_entropy(logits, labels, weights=torch.tensor(scaled))
    expected = functional.cross_entropy(logits, labels, weight=WEIGHTS, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_sums_equal_a_loop_over_the_rows_that_count(smoothing: float) -> None:
    logits, labels = example()
    for loss_of, gamma in ((class_cross_entropy, 0.0), (focal_loss, 2.0)):
        loss = loss_of(logits, labels, weights=WEIGHTS, label_smoothing=smoothing)
        expected = weighted_sum_by_hand(logits, labels, WEIGHTS, smoothing, gamma)
        assert loss.total.item() == pytest.approx(expected, rel=1e-6)
        assert loss.count.item() == BATCH - 2


def test_focal_loss_without_gamma_is_cross_entropy() -> None:
    logits, labels = example()
    one = focal_loss(logits, labels, weights=WEIGHTS, label_smoothing=0.1, gamma=0.0)
    other = class_cross_entropy(logits, labels, weights=WEIGHTS, label_smoothing=0.1)
    torch.testing.assert_close(one.total, other.total, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss_of", LOSSES)
def test_gradients_are_those_of_the_formula_in_float64(
    loss_of: ClassLoss, smoothing: float
) -> None:
    logits, labels = example()
    gamma = 0.0 if loss_of is class_cross_entropy else 2.0
    exact = logits.detach().double().requires_grad_()
    p = exact.exp() / exact.exp().sum(dim=1, keepdim=True)
    terms = -WEIGHTS * (1 - p) ** gamma * p.log()
    target = (
        functional.one_hot(labels.clamp(min=0), CLASSES) * (1 - smoothing) + smoothing / CLASSES
    )
    total = (target * terms)[labels != IGNORE_INDEX].sum()
    loss = loss_of(logits, labels, weights=WEIGHTS, label_smoothing=smoothing)
    (found,), (expected,) = grad(loss.total, logits), grad(total, exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_focal_loss_of_a_sure_row_has_the_gradient_of_its_limit() -> None:
    """Of p = 1 nothing is left, and p = 0 pulls with the slope of cross-entropy."""
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]))
    assert loss.total.item() == pytest.approx(400.0)
    expected = torch.tensor([[0.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(grad(loss.total, logits)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [-1.0, 0.5])
def test_a_gamma_without_a_finite_gradient_is_refused(gamma: float) -> None:
    logits, labels = example()
    with pytest.raises(ValueError, match="must be 0 or at least 1"):
        focal_loss(logits, labels, gamma=gamma)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_uniform_logits_cost_log_classes_in_the_form_of_each_loss(loss_of: ClassLoss) -> None:
    loss = loss_of(torch.full((3, CLASSES), 7.0), torch.tensor([0, 4, IGNORE_INDEX]))
    shrunk = 1.0 if loss_of is class_cross_entropy else (1 - 1 / CLASSES) ** 2
    assert loss.total.item() / 2 == pytest.approx(shrunk * math.log(CLASSES), rel=1e-6)


@pytest.mark.parametrize("loss_of", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("rows", [0, BATCH])
def test_all_ignored_costs_nothing_and_moves_nothing(
    loss_of: ClassLoss, smoothing: float, weights: Tensor | None, rows: int
) -> None:
    logits = example()[0][:rows].detach().requires_grad_()
    labels = torch.full((rows,), IGNORE_INDEX)
    loss = loss_of(logits, labels, weights=weights, label_smoothing=smoothing)
    assert (loss.total.item(), loss.count.item()) == (0.0, 0)
    (gradient,) = grad(loss.total, logits)
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("loss_of", LOSSES)
def test_micro_batches_give_the_gradient_of_one_batch(loss_of: ClassLoss) -> None:
    logits, labels = example()
    cuts = (slice(0, 3), slice(3, 4), slice(4, BATCH))  # unequal, with unequal sums of weights
    parts = [loss_of(logits[c], labels[c], weights=WEIGHTS, label_smoothing=0.1) for c in cuts]
    # The trainer counts in whole numbers.
    split = torch.stack([p.total for p in parts]).sum() / sum(int(p.count) for p in parts)
    whole = loss_of(logits, labels, weights=WEIGHTS, label_smoothing=0.1)
    mean = whole.total / int(whole.count)
    torch.testing.assert_close(split, mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad(split, logits), grad(mean, logits), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_an_ignored_row_has_no_gradient(loss_of: ClassLoss) -> None:
    logits, labels = example()
    (gradient,) = grad(loss_of(logits, labels, label_smoothing=0.1).total, logits)
    assert not gradient[[2, 7]].any()
    counted = labels != IGNORE_INDEX
    without = loss_of(logits[counted], labels[counted], label_smoothing=0.1).total
    torch.testing.assert_close(gradient, grad(without, logits)[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_half_precision_logits_are_summed_in_float32(loss_of: ClassLoss) -> None:
    logits, labels = example()
    half = logits.detach().bfloat16()
    loss = loss_of(half, labels, weights=WEIGHTS)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, loss_of(half.float(), labels, weights=WEIGHTS).total)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_shapes_that_do_not_fit_are_refused(loss_of: ClassLoss) -> None:
    logits, labels = example()
    with pytest.raises(ValueError, match=r"logits \(12, 5\) do not fit labels \(11,\)"):
        loss_of(logits, labels[1:])
    with pytest.raises(ValueError, match="do not fit labels"):
        loss_of(logits[None], labels[None])
    with pytest.raises(ValueError, match=r"weights \(4,\) do not fit 5 classes"):
        loss_of(logits, labels, weights=WEIGHTS[1:])


def test_every_registered_name_leads_to_a_loss() -> None:
    logits, labels = example()
    assert list(CLASS_LOSSES)[:2] == ["cross_entropy", "focal"]
    for name in CLASS_LOSSES:
        loss_of: ClassLoss = load_attribute(CLASS_LOSSES[name])
        assert loss_of(logits, labels, weights=None, label_smoothing=0.0).count.item() == 10
    with pytest.raises(ConfigError, match="did you mean focal"):
        CLASS_LOSSES["focall"]


def test_names_and_weights_are_known_without_torch() -> None:
    code = (
        "import sys, plumbline.kinds.classification.settings, plumbline.losses.class_weights;"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_balanced_weights_are_the_inverse_frequency() -> None:
    assert class_weights("balanced", [10, 30]) == pytest.approx([2, 2 / 3], rel=1e-12)
    assert class_weights("balanced", [6, 0, 3]) == pytest.approx([0.75, 0, 1.5], rel=1e-12)
    assert class_weights("none", [1, 2]) is None


@pytest.mark.parametrize("seed", range(4))
def test_balanced_weights_are_those_of_scikit_learn(seed: int) -> None:
    labels = np.random.default_rng(seed).choice(6, size=50, p=[0.5, 0.3, 0.1, 0.06, 0.04, 0])
    counts = np.bincount(labels, minlength=6)
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    weights = np.array(class_weights("balanced", counts.tolist()))
    np.testing.assert_allclose(weights[counts > 0], expected, rtol=1e-12)
    assert not weights[counts == 0].any()


@pytest.mark.parametrize("how", ["balanced", [1.0, 5.0, 0.0, 2.0]])
def test_weights_have_mean_one_over_the_training_samples(how: object) -> None:
    counts = [7, 1, 0, 12]
    weights = class_weights(how, counts)  # type: ignore[arg-type]
    assert weights is not None
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(1.0, abs=1e-12)


def test_fixed_weights_keep_their_proportions() -> None:
    weights = class_weights([1.0, 3.0], [2, 2])
    assert weights == pytest.approx([0.5, 1.5], rel=1e-12)


@pytest.mark.parametrize(
    ("how", "counts", "rule"),
    [
        ([1.0], [1, 2], "1 class weights for 2 classes"),
        ([1.0, -1.0], [1, 2], "finite and not negative"),
        ([1.0, math.nan], [1, 2], "finite and not negative"),
        ([1.0, 0.0], [0, 2], "0 for every class that occurs"),
        ("balanced", [0, 0], "no training samples"),
    ],
)
def test_weights_that_mean_nothing_are_refused(how: object, counts: list[int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        class_weights(how, counts)  # type: ignore[arg-type]
