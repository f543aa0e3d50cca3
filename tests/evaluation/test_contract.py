"""What every evaluation keeps to, whatever it measures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.evaluation.result import Evaluation, EvaluationJob, Row, write_evaluation
from plumbline.kind import KINDS, known_kinds
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from tests.tiny import CASES, SIZES

CPU = torch.device("cpu")
Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]
TASKS = [name for name, case in CASES.items() if case.kind in KINDS]


def evaluate(caches: Caches, stored_case: Folders, name: str, batch_size: int) -> Evaluation:
    case = CASES[name]
    kind = known_kinds()[case.kind]
    settings = kind.settings.evaluate.model_validate(case.evaluate | {"batch_size": batch_size})
    job = EvaluationJob(load_model(stored_case(name)), caches(case.data), settings, CPU)
    result: Evaluation = kind.role("evaluate").evaluate(job)
    return result


def numbers(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def words(row: Row) -> Row:
    return {name: value for name, value in row.items() if not isinstance(value, int | float)}


@pytest.mark.parametrize("name", list(CASES))
def test_no_figure_depends_on_the_batch_size(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    first, *others = (evaluate(caches, stored_case, name, size) for size in (64, 1, 7))
    assert first.metrics
    for other in others:
        assert other.metrics.keys() == first.metrics.keys()
        assert numbers(other.metrics) == pytest.approx(numbers(first.metrics), rel=1e-6, abs=1e-6)
        for one, another in zip(first.predictions or [], other.predictions or [], strict=True):
            assert numbers(one) == pytest.approx(numbers(another), rel=1e-5, abs=2e-6)
            assert words(one) == words(another)


@pytest.mark.parametrize("name", TASKS)
def test_the_results_are_tables_of_one_row_a_sample(
    caches: Caches, stored_case: Folders, name: str, tmp_path: Path
) -> None:
    result = evaluate(caches, stored_case, name, 7)
    assert result.predictions is not None
    assert len({tuple(row) for row in result.predictions}) <= 1  # all rows have the same keys
    write_evaluation(result, tmp_path)
    assert (tmp_path / "predictions.parquet").is_file()
    if CASES[name].kind in ("classification", "regression"):
        assert result.metrics["samples"] == SIZES["test"]
        assert all(row["sample_id"].startswith(CASES[name].data) for row in result.predictions)
