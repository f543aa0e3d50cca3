"""Stage `evaluate_alignment`: recall@k both ways, embeddings and examples."""

import io
from collections.abc import Sequence

from pydantic import Field

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.files import dump_json, staged_output
from plumbline.kinds.alignment.settings import AlignmentEvaluationConfig
from plumbline.report.first_figures import DETAILS, in_words, write_figures
from plumbline.report.history import write_curves
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tracking.record import record_run


class EvaluateAlignmentConfig(Config):
    """What is evaluated, on which split."""

    threads: int = Field(ge=1)
    data: str
    evaluate: AlignmentEvaluationConfig


SPEC = StageSpec(
    name="evaluate_alignment",
    schema=EvaluateAlignmentConfig,
    group="align",
    sections=lambda key: {
        "threads": "threads",
        "data": f"align.{key}.data",
        "evaluate": f"align.{key}.evaluate",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `metrics/align/<name>.json` and `work/evaluation/align/<name>`."""
    call = parse_call(SPEC, arguments)
    fix_threads(call.config.threads)
    import numpy as np
    import torch

    from plumbline.kinds.alignment.evaluate import evaluate_alignment
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.device import resolve_device
    from plumbline.models.stored import load_dual_encoder

    torch.set_num_threads(call.config.threads)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.alignment_evaluation(call.key)) as out,
    ):
        result = evaluate_alignment(
            load_dual_encoder(paths.aligned(call.key)),
            TrainingCache(paths.cache(call.config.data)),
            call.config.evaluate,
            resolve_device("auto"),
        )
        for name in ("media", "texts", "media_embeddings", "text_embeddings"):
            buffer = io.BytesIO()
            np.save(buffer, getattr(result, name), allow_pickle=False)
            (out / f"{name}.npy").write_bytes(buffer.getvalue())
        (out / "examples.json").write_text(dump_json(result.examples), encoding="utf-8")
        (out / "config.json").write_text(dump_json(call.plain), encoding="utf-8")
        write_figures(result.metrics, {}, out, paths.alignment_metrics(call.key))
        write_curves(paths.aligned(call.key), paths.alignment_curves(call.key))
        run.metrics(0, result.metrics)
        run.artifact(paths.alignment_metrics(call.key))
    call.report(*in_words(result.metrics), see=paths.alignment_evaluation(call.key) / DETAILS)


if __name__ == "__main__":
    run_stage(main)
