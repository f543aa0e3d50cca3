"""What the training of an alignment reads of params.yaml. No torch here."""

from pydantic import create_model
from typing_extensions import override

from plumbline.kind import ALIGNMENT, Kind
from plumbline.stage import StageSpec
from plumbline.training.sections import TRAINS, TrainingConfig, train_section


class PretrainAlignmentConfig(TrainingConfig):
    """What is aligned, and how."""

    @property
    @override
    def work(self) -> Kind:
        return ALIGNMENT


PRETRAIN_ALIGNMENT = StageSpec(
    name="pretrain_alignment",
    schema=create_model(
        "PretrainAlignmentConfig",
        __base__=PretrainAlignmentConfig,
        train=(train_section(ALIGNMENT.settings), ...),
    ),
    roles=TRAINS,
    group="align",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "data": f"align.{key}.data",
        "weights": f"align.{key}.weights",
        "train": f"align.{key}.train",
    },
)
