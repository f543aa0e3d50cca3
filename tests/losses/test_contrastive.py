"""Contrastive losses agree with brute force over pairs."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from plumbline.losses.contrastive import info_nce, matryoshka, shared_positives, sigmoid_pairs

BATCH, WIDTH, SCALE = 6, 8, 14.3


def pairs(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors of both sides, [batch, width], float64."""
    random = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, BATCH, WIDTH, generator=random, dtype=torch.float64)
    images, texts = functional.normalize(sides, dim=-1)
    return images, texts


def planted() -> Tensor:
    """The diagonal, one caption under images 0 and 3, and one that also fits image 5."""
    positives = torch.eye(BATCH, dtype=torch.bool)
    positives[0, 3] = positives[3, 0] = True
    positives[5, 1] = True
    return positives


def cosines(images: Tensor, texts: Tensor) -> list[list[float]]:
    return [[math.fsum((i * t).tolist()) for t in texts] for i in images]


def brute_info_nce(images: Tensor, texts: Tensor, positives: Tensor) -> float:
    logits = [[SCALE * c for c in row] for row in cosines(images, texts)]
    total = 0.0
    for i in range(BATCH):
        rows = ([logits[i][j] for j in range(BATCH)], [logits[j][i] for j in range(BATCH)])
        fits = ([bool(v) for v in positives[i]], [bool(v) for v in positives[:, i]])
        for row, fit in zip(rows, fits, strict=True):
            log_sum = math.log(math.fsum(math.exp(v) for v in row))
            terms = [log_sum - v for v, f in zip(row, fit, strict=True) if f]
            total += math.fsum(terms) / len(terms) / 2
    return total


@pytest.mark.parametrize("positives", [torch.eye(BATCH, dtype=torch.bool), planted()])
def test_info_nce_equals_brute_force(positives: Tensor) -> None:
    images, texts = pairs()
    loss = info_nce(images, texts, positives, logit_scale=SCALE)
    assert loss.total.item() == pytest.approx(brute_info_nce(images, texts, positives), rel=1e-6)
    assert loss.count.item() == BATCH


def test_info_nce_does_not_change_when_the_sides_are_swapped() -> None:
    images, texts = pairs()
    one = info_nce(images, texts, planted(), logit_scale=SCALE)
    other = info_nce(texts, images, planted().T, logit_scale=SCALE)
    torch.testing.assert_close(one.total, other.total, rtol=1e-6, atol=0)


def test_info_nce_of_equal_embeddings_costs_log_batch() -> None:
    same = functional.normalize(torch.ones(BATCH, WIDTH), dim=-1)
    loss = info_nce(same, same, torch.eye(BATCH, dtype=torch.bool), logit_scale=SCALE)
    assert loss.total.item() / BATCH == pytest.approx(math.log(BATCH), rel=1e-6)


def test_info_nce_of_a_single_pair_is_nothing() -> None:
    images, texts = pairs()
    loss = info_nce(images[:1], texts[:1], torch.ones(1, 1, dtype=torch.bool), logit_scale=SCALE)
    assert loss.total.item() == 0.0
    assert loss.count.item() == 1


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """Of CLIP, as its figure 3 has it: the sum over the pairs, by torch's own cross-entropy."""
    logits, own = scale * images @ texts.T, torch.arange(BATCH)
    sides = [functional.cross_entropy(x, own, reduction="sum") for x in (logits, logits.T)]
    return sum(sides, torch.zeros(())) / 2


def test_with_one_positive_a_row_info_nce_is_the_loss_of_clip_and_has_its_gradients() -> None:
    images, texts = (side.requires_grad_() for side in pairs())
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    found = info_nce(images, texts, torch.eye(BATCH, dtype=torch.bool), logit_scale=scale).total
    expected = clip_loss(images, texts, scale)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    moved = (images, texts, scale)
    torch.testing.assert_close(grad(found, moved), grad(expected, moved), rtol=1e-9, atol=1e-12)


def test_a_duplicate_caption_attracts_once_it_is_known_as_a_positive() -> None:
    """Along text 3, which repeats text 0: its share of the softmax, less that of the target."""
    unit, only = torch.eye(BATCH), torch.eye(BATCH, dtype=torch.bool)
    images = unit.clone().requires_grad_()
    share = 1 / (math.e + BATCH - 1)
    for positives, expected in ((only, share), (planted(), share - 0.5)):
        (gradient,) = grad(info_nce(images, unit, positives, logit_scale=1.0).total, images)
        assert gradient[0, 3].item() == pytest.approx(expected, rel=1e-6)


def test_the_order_of_the_pairs_changes_nothing() -> None:
    images, texts = pairs()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    moved = planted()[order][:, order]
    for loss in (info_nce, partial(sigmoid_pairs, logit_bias=-3.7)):
        one = loss(images, texts, planted(), logit_scale=SCALE).total
        other = loss(images[order], texts[order], moved, logit_scale=SCALE).total
        torch.testing.assert_close(other, one, rtol=1e-12, atol=0)


@pytest.mark.parametrize("positives", [torch.eye(BATCH, dtype=torch.bool), planted()])
def test_the_sigmoid_loss_equals_brute_force(positives: Tensor) -> None:
    images, texts = pairs()
    bias = -3.7
    expected = 0.0
    for i, row in enumerate(cosines(images, texts)):
        for j, cosine in enumerate(row):
            sign = 1 if positives[i, j] else -1
            expected += math.log1p(math.exp(-sign * (SCALE * cosine + bias)))
    loss = sigmoid_pairs(images, texts, positives, logit_scale=SCALE, logit_bias=bias)
    assert loss.total.item() == pytest.approx(expected, rel=1e-6)
    assert loss.count.item() == BATCH


def test_the_sigmoid_loss_has_the_gradients_of_binary_cross_entropy() -> None:
    images, texts = (side.requires_grad_() for side in pairs())
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (SCALE, -3.7))
    found = sigmoid_pairs(images, texts, planted(), logit_scale=scale, logit_bias=bias).total
    logits = scale * images @ texts.T + bias
    expected = functional.binary_cross_entropy_with_logits(
        logits, planted().double(), reduction="sum"
    )
    moved = (images, texts, scale, bias)
    torch.testing.assert_close(grad(found, moved), grad(expected, moved), rtol=1e-9, atol=1e-12)


def test_matryoshka_is_the_mean_over_prefixes_of_unit_length() -> None:
    images, texts = (side.float() * 3 for side in pairs())  # of any length
    loss_at = partial(info_nce, logit_scale=SCALE)
    singles = [
        loss_at(
            functional.normalize(images[:, :w], dim=-1),
            functional.normalize(texts[:, :w], dim=-1),
            planted(),
        ).total
        for w in (2, 4, 8)
    ]
    loss = matryoshka(images, texts, planted(), [2, 4, 8], loss_at)
    torch.testing.assert_close(loss.total, torch.stack(singles).mean(), rtol=1e-6, atol=0)
    assert loss.count.item() == BATCH


@pytest.mark.parametrize("widths", [[], [9], [4, 16]])
def test_widths_that_do_not_fit_are_refused(widths: list[int]) -> None:
    images, texts = pairs()
    with pytest.raises(ValueError, match=r"widths \[.*\] do not fit embeddings of 8"):
        matryoshka(images, texts, planted(), widths, partial(info_nce, logit_scale=1.0))


def test_shared_positives_change_the_sum_of_info_nce_only_where_embeddings_differ() -> None:
    images, texts = pairs()
    texts[2] = texts[0]  # one caption, encoded once
    positives = shared_positives(
        torch.arange(len(texts)), torch.tensor([0, 1, 0, *range(3, len(texts))])
    )
    diagonal = torch.eye(len(texts), dtype=torch.bool)
    shared, alone = (
        info_nce(images, texts, fits, logit_scale=SCALE).total for fits in (positives, diagonal)
    )
    torch.testing.assert_close(shared, alone, rtol=1e-12, atol=0.0)
    sigmoid = partial(sigmoid_pairs, images, texts, logit_scale=SCALE, logit_bias=-SCALE)
    logits = SCALE * images @ texts.T - SCALE
    # A pair that is turned from a negative into a positive costs its logit less.
    turned = sigmoid(diagonal).total - logits[0, 2] - logits[2, 0]
    torch.testing.assert_close(sigmoid(positives).total, turned)
    texts[2] = functional.normalize(texts[2] + 0.1, dim=0)
    shared = info_nce(images, texts, positives, logit_scale=SCALE).total
    alone = info_nce(images, texts, diagonal, logit_scale=SCALE).total
    assert abs(shared - alone) > 1e-3


def test_the_scale_learns_by_how_far_the_softmax_is_from_the_positives() -> None:
    images, texts = pairs()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    loss = info_nce(images, texts, planted(), logit_scale=scale)
    cosine, expected = images @ texts.T, 0.0
    for similar, fits in ((cosine, planted().double()), (cosine.T, planted().T.double())):
        off = (SCALE * similar).softmax(dim=1) - fits / fits.sum(dim=1, keepdim=True)
        expected += float((off * similar).sum()) / 2
    assert grad(loss.total, scale)[0].item() == pytest.approx(expected, rel=1e-9)


def test_positives_are_told_from_numbers() -> None:
    media = torch.tensor([0, 1, 2, 0, 4, 5, 6])
    texts = torch.tensor([9, 7, 9, 8, -1, -1, 7])
    found = shared_positives(media, texts)
    for i in range(len(media)):
        for j in range(len(media)):
            same_text = texts[i] == texts[j] and texts[i] >= 0
            fits = i == j or bool(same_text) or bool(media[i] == media[j])
            assert bool(found[i, j]) == fits, (i, j)


def test_logits_keep_the_digits_of_float64_and_gain_those_of_half() -> None:
    images, texts = pairs()
    exact = info_nce(images, texts, planted(), logit_scale=SCALE).total
    assert exact.dtype == torch.float64
    assert exact.item() == pytest.approx(brute_info_nce(images, texts, planted()), rel=1e-13)
    one, other = images.bfloat16(), texts.bfloat16()
    half = info_nce(one, other, planted(), logit_scale=SCALE).total
    assert half.dtype == torch.float32
    # From the logits on: a softmax in bfloat16 would have two digits.
    logits, total = (SCALE * one @ other.T).double(), 0.0
    for rows, fits in ((logits, planted()), (logits.T, planted().T)):
        total -= float((rows.log_softmax(dim=1) * fits / fits.sum(dim=1, keepdim=True)).sum()) / 2
    assert half.item() == pytest.approx(total, rel=1e-6)
