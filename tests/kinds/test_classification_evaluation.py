"""Figures of a classifier are those of its predictions, head by head."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.errors import DataError
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kinds.classification.evaluate import evaluate, softmax
from plumbline.kinds.classification.settings import ClassificationEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.metrics.known import figure_name
from plumbline.models.stored import load_model
from tests.tiny import CASES

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
