"""Stage `evaluate_model`: figures and predictions of a task's model."""

from collections.abc import Sequence

from pydantic import Field, create_model

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.evaluation.config import TaskEvaluationConfig
from plumbline.evaluation.kinds import EVALUATIONS
from plumbline.files import dump_json, staged_output
from plumbline.registry import load_attribute
from plumbline.report.first_figures import DETAILS, in_words, write_figures
from plumbline.report.history import write_curves
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tracking.record import record_run


class EvaluateModelConfig(Config):
    """What is evaluated, on which split."""

    threads: int = Field(ge=1)
    kind: str
    data: str
    evaluate: TaskEvaluationConfig


def schema_of_kind(kind: str) -> type[EvaluateModelConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    settings = EVALUATIONS[kind].settings
    return create_model(
        "EvaluateModelConfig", __base__=EvaluateModelConfig, evaluate=(settings, ...)
    )


SPEC = StageSpec(
    name="evaluate_model",
    schema=EvaluateModelConfig,
    schema_of_kind=schema_of_kind,
    group="tasks",
    sections=lambda key: {
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "evaluate": f"tasks.{key}.evaluate",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `metrics/tasks/<task>.json` and `work/evaluation/tasks/<task>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    import torch

    from plumbline.evaluation.result import EvaluationJob, settle, write_evaluation
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.device import resolve_device
    from plumbline.models.stored import load_model

    torch.set_num_threads(call.config.threads)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.task_evaluation(call.key)) as out,
    ):
        job = EvaluationJob(
            stored=load_model(paths.finetuned(call.key)),
            cache=TrainingCache(paths.cache(call.config.data)),
            config=call.config.evaluate,
            device=resolve_device("auto"),
        )
        metrics, result = settle(load_attribute(EVALUATIONS[call.config.kind].evaluate)(job))
        write_evaluation(result, out)
        (out / "config.json").write_text(dump_json(call.plain), encoding="utf-8")
        write_figures(metrics, result.details, out, paths.task_metrics(call.key))
        write_curves(paths.finetuned(call.key), paths.task_curves(call.key))
        run.metrics(0, metrics)
        run.artifact(paths.task_metrics(call.key))
    call.report(*in_words(metrics), see=paths.task_evaluation(call.key) / DETAILS)


if __name__ == "__main__":
    run_stage(main)
