"""Measure a model: the figures of its kind, and the metrics that the settings add."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from plumbline.errors import ConfigError
from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.metrics import EVALUATION_METRICS
from plumbline.evaluation.result import Evaluation, EvaluationJob, settle
from plumbline.kind import Kind
from plumbline.metrics.known import figure_name
from plumbline.registry import load_attribute


class ComputeMetric(Protocol):
    """What the entries of `plumbline.evaluation.metrics.EVALUATION_METRICS` name."""

    def __call__(self, result: Evaluation, job: EvaluationJob) -> Mapping[str, float | None]:
        """Compute a figure from what an evaluation found.

        Args:
            result: of any kind that the metric is meant for: most have a row per sample in
                `predictions`, an alignment has embeddings in `arrays`.
            job: the model, on its device, and the data that it was measured on.

        Returns:
            Part of the dataset -> its figure, "" for one of the whole; None: it has no value.
        """
        ...


def measure(kind: Kind, job: EvaluationJob) -> tuple[dict[str, float], Evaluation]:
    """Evaluate a model as its kind does and add the metrics that `job.config` names.

    Returns:
        As `settle`.

    Raises:
        ConfigError: a metric is unknown, or its figure is one that the kind has.
    """
    assert isinstance(job.config, EvaluationConfig)
    # Before anything is computed: a name or a plugin may be wrong.
    chosen: dict[str, ComputeMetric] = {
        name: load_attribute(EVALUATION_METRICS[name]) for name in job.config.metrics
    }
    result: Evaluation = kind.role("evaluate").evaluate(job)
    figures = dict(result.metrics)
    for name, compute in chosen.items():
        for part, value in compute(result, job).items():
            full = figure_name(part, name)
            if full in figures:
                raise ConfigError(
                    f"evaluate.metrics: {full} is a figure that evaluations of kind {kind.name} "
                    "have; register the metric under another name"
                )
            figures[full] = value
    return settle(replace(result, metrics=figures))
