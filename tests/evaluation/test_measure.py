"""Metrics that settings name are computed for any kind, beside the figures that it has."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.measure import measure
from plumbline.evaluation.metrics import EVALUATION_METRICS
from plumbline.evaluation.result import Evaluation, EvaluationJob
from plumbline.kind import known_kinds
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.stages.evaluate_model import schema_of_kind
from tests.tiny import CASES

Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]


def rows(result: Evaluation, job: EvaluationJob) -> Mapping[str, float | None]:
    """Rows of the split, for each figure of the kind."""
    assert isinstance(job.config, EvaluationConfig)
    defined = sum(value is not None for value in result.metrics.values())
    return {"": float(len(job.cache.rows(job.config.split)["part"]) / defined)}


def bias(result: Evaluation, job: EvaluationJob) -> Mapping[str, float | None]:
    """The mean error of a regression, part by part; none where a part has but one number."""
    assert result.predictions is not None
    errors: dict[str, list[float]] = {}
    for row in result.predictions:
        prediction, value = row["prediction"], row["value"]
        assert isinstance(prediction, float)
        assert isinstance(value, float)
        errors.setdefault(str(row["part"]), []).append(prediction - value)
    return {"none": None, **{part: float(np.mean(found)) for part, found in errors.items()}}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EVALUATION_METRICS, "_entries", EVALUATION_METRICS.entries())
    for name in ("rows", "bias"):
        EVALUATION_METRICS.register(name, f"{__name__}:{name}")
    EVALUATION_METRICS.register("samples", f"{__name__}:rows")


def measured(
    caches: Caches, stored_case: Folders, name: str, metrics: list[str]
) -> tuple[dict[str, float], Evaluation]:
    case = CASES[name]
    kind = known_kinds()[case.kind]
    config = kind.settings.evaluate.model_validate(case.evaluate | {"metrics": metrics})
    job = EvaluationJob(
        load_model(stored_case(name)), caches(case.data), config, torch.device("cpu")
    )
    return measure(kind, job)


@pytest.mark.parametrize("name", {case.kind: name for name, case in CASES.items()}.values())
def test_a_registered_metric_measures_every_kind(
    caches: Caches, stored_case: Folders, name: str
) -> None:
    plain, _ = measured(caches, stored_case, name, [])
    figures, _ = measured(caches, stored_case, name, ["rows"])
    of_split = len(caches(CASES[name].data).rows("test")["part"])
    assert figures == {**plain, "rows": pytest.approx(of_split / len(plain), rel=1e-12)}


def test_a_metric_has_a_figure_for_each_part_and_says_where_it_has_none(
    caches: Caches, stored_case: Folders
) -> None:
    figures, result = measured(caches, stored_case, "regression", ["bias"])
    rows = [
        (str(r["part"]), float(str(r["prediction"])) - float(str(r["value"])))
        for r in result.predictions or []
    ]
    parts = {part for part, _ in rows}
    assert len(parts) > 1
    for part in parts:
        mean = statistics.fmean(error for of, error in rows if of == part)
        assert figures[f"{part}/bias" if part else "bias"] == pytest.approx(mean, rel=1e-12)
    assert "none/bias" not in figures
    assert result.details["left_out"] == {"none/bias": "it is no finite number"}


def test_a_figure_that_the_kind_has_is_not_replaced(caches: Caches, stored_case: Folders) -> None:
    with pytest.raises(ConfigError, match="samples is a figure that evaluations"):
        measured(caches, stored_case, "regression", ["samples"])


def test_an_unknown_metric_is_told_before_any_data_is_read() -> None:
    sections = {name: f"tasks.it.{name}" for name in ("kind", "data", "evaluate")}
    sections |= {"threads": "threads"}
    params = {
        "threads": 1,
        "tasks": {"it": {"kind": "vlm", "data": "x", "evaluate": {"metrics": ["rowz"]}}},
    }
    with pytest.raises(ConfigError, match=r"tasks\.it\.evaluate.*did you mean rows\?"):
        check_config(schema_of_kind("vlm"), sections, params)
