"""Stage `finetune`: a task's model learns on top of what it starts from."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.stages.training_stage import run_training_stage
from plumbline.training.task_sections import FINETUNE

SPEC = FINETUNE


def main(arguments: Sequence[str]) -> None:
    """Write `models/tasks/<task>`."""
    run_training_stage(SPEC, arguments, paths.finetuned)
