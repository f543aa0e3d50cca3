"""Losses of classification: one label per row of logits.

Class weights multiply what a row adds to the sum, and the count stays the number of rows. So
sums and counts of micro-batches add up exactly, and where the weights have mean 1 over the training
samples (`plumbline.losses.class_weights`), the mean over a training epoch is the weighted mean.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from plumbline.batch import IGNORE_INDEX, LossSum


class ClassLoss(Protocol):
    """What the entries of `plumbline.kinds.classification.settings.CLASS_LOSSES` name."""

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> LossSum:
        """Sum a loss over the rows whose label counts.

        Args:
            logits: [batch, classes].
            labels: [batch], `IGNORE_INDEX` where a row carries no loss.
            weights: [classes], as in `class_cross_entropy`.
            label_smoothing: as in `class_cross_entropy`.
        """
        ...


def class_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Sum cross-entropy, in nats, over the rows whose label counts; the count is that of rows.

    Args:
        logits: [batch, classes], any float dtype; the softmax runs in float32.
        labels: [batch], int64, `IGNORE_INDEX` where a row carries no loss.
        weights: [classes], with mean 1 over the training samples; None weighs all classes 1.
        label_smoothing: mass moved to the uniform distribution, in [0, 1).

    Raises:
        ValueError: the shapes disagree.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7; weights with smoothing as
    torch.nn.functional.cross_entropy defines them.
    """
    terms = cross_entropy_terms(logits, labels, weights=weights, label_smoothing=label_smoothing)
    return LossSum(terms.sum(), (labels != IGNORE_INDEX).sum())


def cross_entropy_terms(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute what each row adds to `class_cross_entropy`: [batch], 0 where a row is ignored."""
    _check_shapes(logits, labels, weights)
    return functional.cross_entropy(
        logits.float(),
        labels,
        weight=None if weights is None else weights.to(logits.device, torch.float32),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="none",
    )


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 2.0,
) -> LossSum:
    """Sum the focal loss: cross-entropy whose terms shrink by (1 - p) ** gamma.

    Logits [batch, classes], labels [batch], weights [classes], count and errors as in
    `class_cross_entropy`, which is the case of `gamma` 0. The weights are the alpha of the paper;
    with smoothing every class adds its share of the target.

    Raises:
        ValueError: `gamma` lies below 1 without being 0: its gradient is not finite at p = 1.

    Source: Lin et al. 2017, arXiv:1708.02002, equations 4 and 5.
    """
    _check_shapes(logits, labels, weights)
    if gamma != 0 and gamma < 1:
        raise ValueError(f"gamma = {gamma}: must be 0 or at least 1")
    counted = labels != IGNORE_INDEX
    log_p = functional.log_softmax(logits.float(), dim=1)  # [batch, classes]
    # expm1 keeps the digits of 1 - p where p is close to 1.
    terms = -log_p * (-torch.expm1(log_p)) ** gamma
    if weights is not None:
        terms = terms * weights.to(logits.device, torch.float32)
    # An ignored label is no index: 0 stands in, and its row is dropped below.
    of_label = terms.gather(1, labels.where(counted, 0).unsqueeze(1)).squeeze(1)
    rows = (1 - label_smoothing) * of_label + label_smoothing * terms.mean(dim=1)
    return LossSum(rows.where(counted, 0.0).sum(), counted.sum())


def _check_shapes(logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    if weights is not None and weights.shape != logits.shape[1:]:
        raise ValueError(f"weights {tuple(weights.shape)} do not fit {logits.shape[1]} classes")
