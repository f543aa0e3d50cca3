"""Stage `evaluate_alignment`: recall@k both ways, embeddings and examples."""

from collections.abc import Sequence

from pydantic import create_model
from typing_extensions import override

from plumbline import paths
from plumbline.kind import ALIGNMENT, Kind
from plumbline.stage import StageSpec
from plumbline.stages.evaluation_stage import (
    EVALUATES,
    EvaluateConfig,
    Places,
    run_evaluation_stage,
)


class EvaluateAlignmentConfig(EvaluateConfig):
    """What is evaluated, on which split."""

    @property
    @override
    def work(self) -> Kind:
        return ALIGNMENT


SPEC = StageSpec(
    name="evaluate_alignment",
    schema=create_model(
        "EvaluateAlignmentConfig",
        __base__=EvaluateAlignmentConfig,
        evaluate=(ALIGNMENT.settings.evaluate, ...),
    ),
    roles=EVALUATES,
    group="align",
    sections=lambda key: {
        "threads": "threads",
        "data": f"align.{key}.data",
        "evaluate": f"align.{key}.evaluate",
    },
)

PLACES = Places(
    model=paths.aligned,
    evaluation=paths.alignment_evaluation,
    metrics=paths.alignment_metrics,
    curves=paths.alignment_curves,
)


def main(arguments: Sequence[str]) -> None:
    """Write `metrics/align/<name>.json` and `work/evaluation/align/<name>`."""
    run_evaluation_stage(SPEC, arguments, PLACES)
