"""What the two stages that evaluate have in common: model and cache in, figures and files out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field, field_validator

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.evaluation.config import EvaluationConfig
from plumbline.evaluation.metrics import EVALUATION_METRICS
from plumbline.files import staged_output
from plumbline.imports import importing
from plumbline.kind import Kind
from plumbline.registry import check_known
from plumbline.report.first_figures import DETAILS, in_words, write_figures
from plumbline.report.history import write_curves
from plumbline.stage import StageSpec, parse_call
from plumbline.tracking.record import record_run

EVALUATES = ("settings", "model", "evaluate")
"""The roles of its kind that an evaluation runs."""


class EvaluateConfig(Config, ABC):
    """What is evaluated, on which split."""

    threads: int = Field(ge=1)
    """Compute threads of trainings and evaluations; sums of floats depend on their number."""
    data: str
    """An entry of `datasets`."""
    evaluate: EvaluationConfig
    """What is measured of the trained model, on which split."""

    @field_validator("evaluate")
    @classmethod
    def _known_metrics(cls, evaluate: EvaluationConfig) -> EvaluationConfig:
        # Here and not in the section's class, which is part of a training's code.
        check_known(EVALUATION_METRICS, *evaluate.metrics)
        return evaluate

    @property
    @abstractmethod
    def work(self) -> Kind:
        """The kind of work that is evaluated."""


ConfigT = TypeVar("ConfigT", bound=EvaluateConfig)
Place = Callable[[str], Path]


@dataclass(frozen=True)
class Places:
    """Where a stage reads and writes, by key."""

    model: Place
    evaluation: Place
    metrics: Place
    curves: Place


def run_evaluation_stage(
    spec: StageSpec[ConfigT], arguments: Sequence[str], places: Places
) -> None:
    """Evaluate what the settings say and write its metrics file and its folder."""
    call = parse_call(spec, arguments)
    fix_threads(call.config.threads)
    with importing():
        import torch

        from plumbline.evaluation.measure import measure
        from plumbline.evaluation.result import EvaluationJob, write_evaluation
        from plumbline.loading.cache_reader import TrainingCache
        from plumbline.models.device import resolve_device
        from plumbline.models.stored import load_model

    torch.set_num_threads(call.config.threads)
    asked = call.config.evaluate.metrics
    model, metrics_file = places.model(call.key), places.metrics(call.key)
    with (
        record_run(stage=spec.name, key=call.key, config=call.plain) as run,
        staged_output(places.evaluation(call.key)) as out,
    ):
        job = EvaluationJob(
            stored=load_model(model),
            cache=TrainingCache(paths.cache(call.config.data)),
            config=call.config.evaluate,
            device=resolve_device("auto"),
        )
        metrics, result = measure(call.config.work, job)
        write_evaluation(result, out)
        call.store(out)
        details = {**result.details, **_title(call.config.work)}
        write_figures(metrics, details, out, metrics_file, asked)
        write_curves(model, places.curves(call.key))
        run.metrics(0, metrics)
        run.artifact(metrics_file)
    call.report(*in_words(metrics, asked), see=places.evaluation(call.key) / DETAILS)


def _title(kind: Kind) -> dict[str, str]:
    """What the report calls the kind, where its name in words would not do."""
    title = kind.settings.title
    return {"title": title} if title else {}
