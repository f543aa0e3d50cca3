"""How often a class was told right, and for which classes.

Labels and predictions are class numbers from 0; rows without a label are left out by the caller,
as the loss leaves them out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.metrics.intervals import bootstrap_interval

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Ints = NDArray[np.integer]
Int64s = NDArray[np.int64]


def softmax(logits: Floats) -> Float64s:
    """Probabilities [rows, classes] of logits, computed so that none overflows."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    out: Float64s = shifted / shifted.sum(axis=1, keepdims=True)
    return out


def accuracy(predictions: Ints, labels: Ints) -> float:
    """Share of the predictions [samples] that are their labels [samples], in [0, 1].

    Raises:
        ValueError: there are no samples, or the shapes differ.
    """
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"predictions {predictions.shape} do not fit labels {labels.shape}")
    if not labels.size:
        raise ValueError("no samples: the figure is undefined")
    return float(np.mean(predictions == labels))


def top_k_hits(scores: Floats, labels: Ints, k: int) -> Float64s:
    """Probability that the label is among the `k` highest scores, over the orders of equal ones.

    It is 0 or 1 where nothing ties with the label, and k / classes where all scores are equal: a
    model that tells nothing apart gets chance level.

    Args:
        scores: [samples, classes], logits or probabilities.
        labels: [samples].
        k: how many first places count.

    Returns:
        [samples] float64; its mean is the top-k accuracy.

    Raises:
        ValueError: as in `accuracy`, a label or score is no valid one, or `k` is below 1.
    """
    _check_scores(scores, labels)
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    own = scores[np.arange(len(labels)), labels][:, None]  # [samples, 1]
    above = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1)  # the label itself is one of them
    hits: Float64s = np.clip((k - above) / tied, 0.0, 1.0)
    return hits


def top_k_accuracy(scores: Floats, labels: Ints, k: int) -> float:
    """Mean of `top_k_hits` over scores [samples, classes] and labels [samples]."""
    return float(top_k_hits(scores, labels, k).mean())


def confusion_matrix(predictions: Ints, labels: Ints, classes: int) -> Int64s:
    """Count the samples of each label (row) by what was predicted (column).

    Returns:
        [classes, classes] int64; its sum is the number of samples.

    Raises:
        ValueError: as in `accuracy`, or a number lies outside 0..classes - 1.
    """
    accuracy(predictions, labels)  # checks the shapes
    _check_range(labels, classes, "label")
    _check_range(predictions, classes, "prediction")
    # int64: the number of a cell may not fit the dtype of labels, such as int8.
    cells = labels.astype(np.int64) * classes + predictions
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Figures of each class, [classes] float64; 0 where one is undefined.

    Attributes:
        precision: share of the predictions of the class that are right.
        recall: share of the samples of the class that were found.
        f1: their harmonic mean.
        support: [classes] int64, samples of the class.
        predicted: [classes] int64, predictions of the class.
    """

    precision: Float64s
    recall: Float64s
    f1: Float64s
    support: Int64s
    predicted: Int64s


def per_class(confusion: Int64s) -> PerClass:
    """Precision, recall, F1 and support of each class from a confusion [label, prediction]."""
    right = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)  # [classes] each
    return PerClass(
        precision=right / np.maximum(predicted, 1),
        recall=right / np.maximum(support, 1),
        f1=2 * right / np.maximum(support + predicted, 1),
        support=support,
        predicted=predicted,
    )


def macro_f1(confusion: Int64s) -> float:
    """Mean F1 over the classes of a confusion [label, prediction] that occur as either.

    A class that is never found has F1 0. A class of which there is neither a sample nor a
    prediction is left out: as scikit-learn does with `zero_division=0` and its own label list.

    Raises:
        ValueError: there are no samples.
    """
    figures = per_class(confusion)
    occurs = (figures.support + figures.predicted) > 0
    if not occurs.any():
        raise ValueError("no samples: the figure is undefined")
    return float(figures.f1[occurs].mean())


def balanced_accuracy(confusion: Int64s) -> float:
    """Mean recall over the classes of a confusion [label, prediction] that have samples.

    It is 1 / classes for a constant answer.

    Raises:
        ValueError: there are no samples.
    """
    figures = per_class(confusion)
    if not figures.support.any():
        raise ValueError("no samples: the figure is undefined")
    return float(figures.recall[figures.support > 0].mean())


def expected_calibration_error(probabilities: Floats, labels: Ints, *, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, in [0, 1].

    Args:
        probabilities: [samples, classes]; the largest of a row is its confidence.
        labels: [samples].
        bins: number of bins (lower, upper]; each weighs by its samples.

    Raises:
        ValueError: as in `top_k_hits`, or `bins` is below 1.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    _check_scores(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins = {bins}: must be at least 1")
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    which = np.digitize(confidence, inner_edges, right=True)
    # |accuracy - confidence| * samples of a bin is the distance of the two sums.
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def log_loss(probabilities: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood, in nats, of labels [samples] under [samples, classes].

    A probability of 0 counts as the smallest step of its dtype at 1, as in scikit-learn, so that
    one sure mistake does not make the figure infinite.

    Raises:
        ValueError: as in `top_k_hits`.
    """
    _check_scores(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels]
    floor = float(np.finfo(probabilities.dtype).eps)
    return float(-np.log(np.clip(own.astype(np.float64), floor, 1.0)).mean())


def classification_report(
    probabilities: Floats, labels: Ints, *, interval_seed: int | None = None
) -> dict[str, float | None]:
    """The figures of a classifier under flat metric names.

    Where all labels are of one class, those that a constant answer would bring to 1 are None.

    Names are `accuracy` (with `_low` and `_high` for the ends of its 95 % interval),
    `top_5_accuracy` where there are more than 5 classes, `macro_f1`, `balanced_accuracy`,
    `expected_calibration_error` and `log_loss`.

    Args:
        probabilities: [samples, classes].
        labels: [samples].
        interval_seed: seed of the bootstrap; None leaves the interval out.

    Raises:
        ValueError: as in `top_k_hits`.
    """
    _check_scores(probabilities, labels)
    classes = probabilities.shape[1]
    predictions = probabilities.argmax(axis=1)
    confusion = confusion_matrix(predictions, labels, classes)
    report: dict[str, float | None] = {"accuracy": accuracy(predictions, labels)}
    if interval_seed is not None:
        hits = (predictions == labels).astype(np.float64)
        low, high = bootstrap_interval(hits, interval_seed)
        report |= {"accuracy_low": low, "accuracy_high": high}
    if classes > 5:
        report["top_5_accuracy"] = top_k_accuracy(probabilities, labels, 5)
    report["macro_f1"] = macro_f1(confusion)
    report["balanced_accuracy"] = balanced_accuracy(confusion)
    if (labels == labels[0]).all():
        bounds = ("accuracy_low", "accuracy_high")
        report = {name: None for name in report if name not in bounds}
    report["expected_calibration_error"] = expected_calibration_error(probabilities, labels)
    report["log_loss"] = log_loss(probabilities, labels)
    return report


def _check_scores(scores: Floats, labels: Ints) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape} do not fit labels {labels.shape}")
    if not labels.size:
        raise ValueError("no samples: the figure is undefined")
    _check_range(labels, scores.shape[1], "label")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if broken.size:
        raise ValueError(f"scores: row {broken[0]} is not finite")


def _check_range(numbers: Ints, classes: int, name: str) -> None:
    outside = numbers[(numbers < 0) | (numbers >= classes)]
    if outside.size:
        raise ValueError(f"{name} {outside[0]}: not in the range of {classes} classes")
