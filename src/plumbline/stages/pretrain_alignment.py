"""Stage `pretrain_alignment`: images or audio and their texts learn to meet in one space."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.stages.training_stage import run_training_stage
from plumbline.training.alignment_sections import PRETRAIN_ALIGNMENT

SPEC = PRETRAIN_ALIGNMENT


def main(arguments: Sequence[str]) -> None:
    """Write `models/align/<name>`."""
    run_training_stage(SPEC, arguments, paths.aligned)
