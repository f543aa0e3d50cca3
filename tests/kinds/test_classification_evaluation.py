"""Figures of a classifier are those of its predictions, head by head."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
from numpy.typing import NDArray

from plumbline.errors import DataError
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.classification.evaluate import evaluate
from plumbline.kinds.classification.model import ClassifierSpec
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.classification.settings import ClassificationEvaluationConfig
from plumbline.kinds.classification.train import collate
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import build_input
from plumbline.metrics.classification import softmax
from plumbline.metrics.known import figure_name
from plumbline.models.stored import Stored, load_model
from tests.tiny import CASES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CPU = torch.device("cpu")
Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]
NAMES = [name for name, case in CASES.items() if case.kind == "classification"]


def evaluated(caches: Caches, stored_case: Folders, name: str) -> Evaluation:
    stored, cache = load_model(stored_case(name)), caches(CASES[name].data)
    return evaluate(EvaluationJob(stored, cache, ClassificationEvaluationConfig(), CPU))


@pytest.mark.parametrize("name", NAMES)
def test_figures_and_tables_are_those_of_the_predictions(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    result, cache = evaluated(caches, stored_case, name), caches(CASES[name].data)
    for part, classes in cache.classes().items():
        named = {"part": part} if part else {}
        rows = [row for row in result.predictions if row["part"] == part]
        hits = [row["label"] == row["prediction"] for row in rows]
        assert [row["correct"] for row in rows] == hits
        assert result.metrics[figure_name(part, "accuracy")] == pytest.approx(sum(hits) / len(hits))
        confusion = {
            (row["actual"], row["predicted"]): row["count"]
            for row in result.tables["confusion"]
            if named.items() <= row.items()
        }
        assert len(confusion) == len(classes) ** 2
        for (actual, predicted), count in confusion.items():
            found = [r for r in rows if (r["label"], r["prediction"]) == (actual, predicted)]
            assert count == len(found)
        by_class = [row for row in result.tables["per_class"] if named.items() <= row.items()]
        support = {row["class"]: row["support"] for row in by_class}
        assert support == {c: sum(row["label"] == c for row in rows) for c in classes}


@torch.inference_mode()
def scored_alone(stored: Stored, cache: TrainingCache) -> dict[str, tuple[Ints, Floats]]:
    """Part -> labels [samples] and probabilities [samples, classes], from one sample at a time."""
    spec = stored.spec
    assert isinstance(spec, ClassifierSpec)
    inputs, parts = build_input(spec.inputs, cache, image_size=16), list(spec.classes)
    rows = LabelledRows(cache, "test", inputs, spec.inputs.source, parts)
    logits: dict[str, list[Floats]] = {part: [] for part in parts}
    for index in range(len(rows)):
        sample = [rows.sample(index, 0)]
        batch = collate(sample, inputs=inputs, parts=parts, seed=0, training=False)
        for part, values in stored.model(**batch["inputs"]).items():
            logits[part].append(values[0].double().numpy())
    found = {}
    for at, part in enumerate(parts):
        known = rows.labels[:, at] >= 0
        probabilities = scipy.special.softmax(np.stack(logits[part])[known], axis=1)
        found[part] = (rows.labels[known, at], probabilities)
    return found


@pytest.mark.parametrize("name", ["audio", "features", "text"])
def test_figures_are_those_of_samples_scored_one_by_one(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    cache, stored = caches(CASES[name].data), load_model(stored_case(name))
    result = evaluated(caches, stored_case, name)
    for part, (labels, probabilities) in scored_alone(stored, cache).items():
        chosen, classes = probabilities.argmax(axis=1), range(probabilities.shape[1])
        rows = [row for row in result.predictions if row["part"] == part]
        confidences = [row["confidence"] for row in rows]
        np.testing.assert_allclose(confidences, probabilities.max(axis=1), rtol=0, atol=2e-6)
        theirs = sklearn.metrics.precision_recall_fscore_support(
            labels, chosen, labels=classes, zero_division=0
        )
        table = [row for row in result.tables["per_class"] if row.get("part", "") == part]
        for column, of_classes in zip(
            ("precision", "recall", "f1", "support"), theirs, strict=True
        ):
            found = [row[column] or 0 for row in table]  # what is undefined has no figure there
            np.testing.assert_allclose(found, of_classes, rtol=0, atol=1e-12)
        expected = {
            "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=classes),
            "macro_f1": sklearn.metrics.f1_score(labels, chosen, average="macro", zero_division=0),
            "balanced_accuracy": sklearn.metrics.recall_score(
                labels, chosen, labels=np.unique(labels), average="macro"
            ),
        }
        figures = {key: result.metrics[figure_name(part, key)] for key in expected}
        assert figures == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["audio", "features", "image"])
def test_every_label_of_the_split_is_predicted_once(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    result, cache = evaluated(caches, stored_case, name), caches(CASES[name].data)
    rows, ids = cache.rows("test"), cache.sample_ids("test").to_pylist()
    parts = cache.facts["parts"]
    expected = {
        (sample, parts[part], cache.classes()[parts[part]][label])
        for sample, part, label in zip(ids, rows["part"], rows["label"], strict=True)
    }
    found = [(row["sample_id"], row["part"], row["label"]) for row in result.predictions]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_a_dataset_without_labels_is_refused(caches: Caches, stored_case: Folders) -> None:
    stored, cache = load_model(stored_case("text")), caches("text")
    with pytest.raises(DataError, match="no text with a label in split 'test'"):
        evaluate(EvaluationJob(stored, cache, ClassificationEvaluationConfig(), CPU))


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1000.0, 999.0], [-1000.0, -1000.0]], np.float32)
    expected = [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], [0.5, 0.5]]
    np.testing.assert_allclose(softmax(logits), expected, rtol=1e-12)
