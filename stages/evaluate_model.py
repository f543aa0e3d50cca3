"""Stage `evaluate_model`: figures and predictions of a task's model."""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import Field

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.evaluation.config import VlmEvaluationConfig
from plumbline.files import dump_json, staged_output, write_json
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tracking.record import record_run


class EvaluateModelConfig(Config):
    """What is evaluated, on which split."""

    threads: int = Field(ge=1)
    data: str
    evaluate: VlmEvaluationConfig


SPEC = StageSpec(
    name="evaluate_model",
    schema=EvaluateModelConfig,
    group="tasks",
    sections=lambda key: {
        "threads": "threads",
        "data": f"tasks.{key}.data",
        "evaluate": f"tasks.{key}.evaluate",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `metrics/tasks/<task>.json` and `work/evaluation/tasks/<task>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq
    import torch

    from plumbline.evaluation.vlm import VlmEvaluator
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.device import resolve_device
    from plumbline.models.stored import load_vlm

    torch.set_num_threads(call.config.threads)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.task_evaluation(call.key)) as out,
    ):
        evaluator = VlmEvaluator(
            load_vlm(paths.finetuned(call.key)),
            TrainingCache(paths.cache(call.config.data)),
            call.config.evaluate,
            resolve_device("auto"),
        )
        result = evaluator.evaluate()
        table = pa.Table.from_pylist([asdict(p) for p in result.predictions])
        pq.write_table(table, out / "predictions.parquet", compression="zstd")
        if result.by_prompt:
            by_prompt = pa.Table.from_pylist(result.by_prompt)
            pyarrow.csv.write_csv(by_prompt, out / "by_prompt.csv")
        details = {"bleu_signature": result.bleu_signature}
        (out / "details.json").write_text(dump_json(details))
        (out / "config.json").write_text(dump_json(call.plain))
        write_json(paths.task_metrics(call.key), result.metrics)
        run.metrics(0, result.metrics)
        run.artifact(paths.task_metrics(call.key))


if __name__ == "__main__":
    run_stage(main)
