"""What every evaluation keeps to, whatever it measures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plumbline.evaluation.kinds import EVALUATIONS
from plumbline.evaluation.result import Evaluation, EvaluationJob, Row, write_evaluation
from plumbline.kinds.alignment.evaluate import evaluate_alignment
from plumbline.kinds.alignment.settings import AlignmentEvaluationConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_dual_encoder, load_model
from plumbline.registry import load_attribute
from tests.tiny import CASES, SIZES

CPU = torch.device("cpu")
Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]
TASKS = [name for name, case in CASES.items() if case.kind in EVALUATIONS]
ALIGNMENTS = [name for name in CASES if name not in TASKS]


def evaluate(caches: Caches, stored_case: Folders, name: str, batch_size: int) -> Evaluation:
    case = CASES[name]
    kind = EVALUATIONS[case.kind]
    settings = kind.settings.model_validate(case.evaluate | {"batch_size": batch_size})
    job = EvaluationJob(load_model(stored_case(name)), caches(case.data), settings, CPU)
    result: Evaluation = load_attribute(kind.evaluate)(job)
    return result


def numbers(row: Row) -> Row:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def words(row: Row) -> Row:
    return {name: value for name, value in row.items() if not isinstance(value, int | float)}


@pytest.mark.parametrize("name", TASKS)
def test_no_figure_depends_on_the_batch_size(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    first, *others = (evaluate(caches, stored_case, name, size) for size in (64, 1, 7))
    assert first.metrics
    for other in others:
        assert other.metrics == pytest.approx(first.metrics, rel=1e-6, abs=1e-6)
        assert len(other.predictions) == len(first.predictions)
        for one, another in zip(first.predictions, other.predictions, strict=True):
            assert numbers(one) == pytest.approx(numbers(another), rel=1e-5, abs=2e-6)
            assert words(one) == words(another)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_no_figure_of_an_alignment_depends_on_the_batch_size(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    stored, cache = load_dual_encoder(stored_case(name)), caches(CASES[name].data)
    first, *others = (
        evaluate_alignment(stored, cache, AlignmentEvaluationConfig(batch_size=size), CPU)
        for size in (64, 1, 7)
    )
    for other in others:
        assert other.metrics == pytest.approx(first.metrics, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_the_results_are_tables_of_one_row_a_sample(
    caches: Caches, stored_case: Folders, name: str, tmp_path: Path
) -> None:
    result = evaluate(caches, stored_case, name, 7)
    assert len({tuple(row) for row in result.predictions}) <= 1  # all rows have the same keys
    write_evaluation(result, tmp_path)
    assert (tmp_path / "predictions.parquet").is_file()
    if CASES[name].kind in ("classification", "regression"):
        assert result.metrics["samples"] == SIZES["test"]
        assert all(row["sample_id"].startswith(CASES[name].data) for row in result.predictions)
