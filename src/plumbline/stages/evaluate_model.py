"""Stage `evaluate_model`: figures and predictions of a task's model."""

from collections.abc import Sequence

from pydantic import create_model
from typing_extensions import override

from plumbline import paths
from plumbline.kind import KINDS, Kind
from plumbline.stage import StageSpec
from plumbline.stages.evaluation_stage import (
    EVALUATES,
    EvaluateConfig,
    Places,
    run_evaluation_stage,
)


class EvaluateModelConfig(EvaluateConfig):
    """What is evaluated, on which split."""

    kind: str
    """The kind of work, which decides what the sections may hold."""

    @property
    @override
    def work(self) -> Kind:
        return KINDS[self.kind]


def schema_of_kind(kind: str) -> type[EvaluateModelConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    settings = KINDS[kind].settings.evaluate
    return create_model(
        "EvaluateModelConfig", __base__=EvaluateModelConfig, evaluate=(settings, ...)
    )


SPEC = StageSpec(
    name="evaluate_model",
    schema=EvaluateModelConfig,
    schema_of_kind=schema_of_kind,
    roles=EVALUATES,
    group="tasks",
    sections=lambda key: {
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "evaluate": f"tasks.{key}.evaluate",
    },
)

PLACES = Places(
    model=paths.finetuned,
    evaluation=paths.task_evaluation,
    metrics=paths.task_metrics,
    curves=paths.task_curves,
)


def main(arguments: Sequence[str]) -> None:
    """Write `metrics/tasks/<task>.json` and `work/evaluation/tasks/<task>`."""
    run_evaluation_stage(SPEC, arguments, PLACES)
