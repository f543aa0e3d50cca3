"""Classification figures agree with scikit-learn and with counting by hand."""

import math

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray

from plumbline.metrics.classification import (
    accuracy,
    balanced_accuracy,
    classification_report,
    confusion_matrix,
    expected_calibration_error,
    log_loss,
    macro_f1,
    per_class,
    top_k_accuracy,
    top_k_hits,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def example(seed: int, samples: int = 200, classes: int = 7) -> tuple[Floats, Ints]:
    """Probabilities [samples, classes] and labels that they often get right, classes uneven."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes))
    labels = rng.choice(classes, size=samples, p=shares)
    logits = rng.standard_normal((samples, classes)) + 1.5 * np.eye(classes)[labels]
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(8))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    probabilities, labels = example(seed, samples=40 if seed % 2 else 300)
    predictions = probabilities.argmax(axis=1)
    predictions[predictions == 3] = 4  # class 3 is never predicted
    confusion = confusion_matrix(predictions, labels, 7)
    reference = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(7))
    assert np.array_equal(confusion, reference)
    figures = per_class(confusion)
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(7), zero_division=0
    )
    ours = (figures.precision, figures.recall, figures.f1, figures.support)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
    theirs = sklearn.metrics.accuracy_score(labels, predictions)
    assert accuracy(predictions, labels) == pytest.approx(theirs, abs=1e-12)
    theirs = sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)
    assert macro_f1(confusion) == pytest.approx(theirs, abs=1e-12)
    recalls = [np.mean(predictions[labels == c] == c) for c in np.unique(labels)]
    assert balanced_accuracy(confusion) == pytest.approx(np.mean(recalls), abs=1e-12)
    if set(predictions) <= set(labels):  # scikit-learn warns otherwise
        theirs = sklearn.metrics.balanced_accuracy_score(labels, predictions)
        assert balanced_accuracy(confusion) == pytest.approx(theirs, abs=1e-12)
    theirs = sklearn.metrics.log_loss(labels, probabilities, labels=range(7))
    assert log_loss(probabilities, labels) == pytest.approx(theirs, abs=1e-12)
    for k in (1, 2, 5):
        theirs = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(7))
        assert top_k_accuracy(probabilities, labels, k) == pytest.approx(theirs, abs=1e-12)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_macro_f1() -> None:
    small = confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    large = confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 9)
    assert macro_f1(small) == macro_f1(large) == pytest.approx(2 / 3, abs=1e-12)
    predicted_only = confusion_matrix(np.array([0, 2, 1]), np.array([0, 0, 1]), 3)
    assert macro_f1(predicted_only) == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-12)


def test_a_constant_answer_is_balanced_to_chance() -> None:
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    confusion = confusion_matrix(np.zeros(100, dtype=np.int64), labels, 3)
    assert accuracy(np.zeros(100, dtype=np.int64), labels) == 0.9
    assert balanced_accuracy(confusion) == pytest.approx(1 / 3, abs=1e-12)
    assert macro_f1(confusion) == pytest.approx(2 * 0.9 / 1.9 / 3, abs=1e-12)


def test_the_confusion_matrix_has_labels_as_rows() -> None:
    confusion = confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 2]), 3)
    assert confusion.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]
    assert confusion.dtype == np.int64


def test_equal_scores_give_chance_level_at_every_k() -> None:
    labels = np.arange(20) % 10
    for k in (1, 3, 10, 12):
        hits = top_k_hits(np.full((20, 10), 0.1), labels, k)
        np.testing.assert_allclose(hits, min(k / 10, 1.0), rtol=0, atol=1e-12)


def test_a_tie_with_the_label_is_shared_among_its_places() -> None:
    scores = np.array([[5.0, 3.0, 3.0, 3.0, 1.0]])
    label = np.array([2])
    expected = [0, 1 / 3, 2 / 3, 1, 1]
    for k, share in enumerate(expected, start=1):
        assert top_k_hits(scores, label, k)[0] == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_equals_a_loop_over_the_bins(seed: int) -> None:
    probabilities, labels = example(seed)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    error = expected_calibration_error(probabilities, labels)
    assert error == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_known_answers() -> None:
    sure = np.eye(2)[[0, 0, 0, 0]]
    assert expected_calibration_error(sure, np.array([0, 0, 0, 0])) == 0.0
    assert expected_calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(0.25)
    uniform = np.full((4, 2), 0.5)
    assert expected_calibration_error(uniform, np.array([0, 1, 0, 1])) == pytest.approx(0.0)


def test_log_loss_of_known_answers() -> None:
    labels = np.array([0, 1, 3])
    assert log_loss(np.full((3, 4), 0.25), labels) == pytest.approx(math.log(4), abs=1e-12)
    wrong = log_loss(np.eye(4, dtype=np.float32)[[1, 0, 0]], labels)
    assert wrong == pytest.approx(-math.log(np.finfo(np.float32).eps), abs=1e-6)


def test_the_report_holds_every_figure_under_its_name() -> None:
    probabilities, labels = example(0)
    predictions = probabilities.argmax(axis=1)
    report = classification_report(probabilities, labels, interval_seed=0)
    assert list(report) == [
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "top_5_accuracy",
        "macro_f1",
        "balanced_accuracy",
        "expected_calibration_error",
        "log_loss",
    ]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "top_5_accuracy": sklearn.metrics.top_k_accuracy_score(
            labels, probabilities, k=5, labels=range(7)
        ),
        "macro_f1": sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0),
        "balanced_accuracy": sklearn.metrics.recall_score(
            labels, predictions, labels=np.unique(labels), average="macro"
        ),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=range(7)),
    }
    assert {name: report[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in report.values())
    few, few_labels = example(0, classes=5)
    assert "top_5_accuracy" not in classification_report(few, few_labels)
    assert "accuracy_low" not in classification_report(few, few_labels)


def test_neither_the_order_of_the_samples_nor_the_numbers_of_the_classes_matter() -> None:
    probabilities, labels = example(2)
    report = classification_report(probabilities, labels)
    rng = np.random.default_rng(0)
    samples, classes = rng.permutation(200), rng.permutation(7)
    moved = classification_report(
        probabilities[samples][:, classes], np.argsort(classes)[labels[samples]]
    )
    assert moved == pytest.approx(report, abs=1e-12)


def test_the_interval_holds_the_accuracy_and_has_the_binomial_width() -> None:
    probabilities, labels = example(1, samples=1000)
    report = classification_report(probabilities, labels, interval_seed=3)
    assert report == classification_report(probabilities, labels, interval_seed=3)
    rate = report["accuracy"]
    spread = 1.96 * math.sqrt(rate * (1 - rate) / 1000)
    assert report["accuracy_low"] == pytest.approx(rate - spread, abs=0.15 * spread)
    assert report["accuracy_high"] == pytest.approx(rate + spread, abs=0.15 * spread)


def test_what_cannot_be_counted_is_refused_by_name() -> None:
    probabilities, labels = example(0)
    none = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="no samples"):
        accuracy(none, none)
    with pytest.raises(ValueError, match="no samples"):
        log_loss(np.zeros((0, 3)), none)
    with pytest.raises(ValueError, match="no samples"):
        macro_f1(np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="no samples"):
        balanced_accuracy(np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"predictions \(200, 1\) do not fit labels \(200,\)"):
        accuracy(labels[:, None], labels)
    with pytest.raises(ValueError, match=r"scores \(200, 7\) do not fit labels \(199,\)"):
        top_k_accuracy(probabilities, labels[1:], 1)
    with pytest.raises(ValueError, match="label -100: not in the range of 7 classes"):
        log_loss(probabilities, np.where(labels == 0, -100, labels))
    with pytest.raises(ValueError, match="prediction 7: not in the range"):
        confusion_matrix(np.array([7]), np.array([0]), 7)
    with pytest.raises(ValueError, match="k = 0"):
        top_k_accuracy(probabilities, labels, 0)
    with pytest.raises(ValueError, match="bins = 0"):
        expected_calibration_error(probabilities, labels, bins=0)
    probabilities[17, 2] = math.nan
    with pytest.raises(ValueError, match="row 17 is not finite"):
        classification_report(probabilities, labels)
