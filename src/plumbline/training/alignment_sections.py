"""What the training of an alignment reads of params.yaml. No torch here."""

from pydantic import model_validator

from plumbline.kinds.alignment.settings import AlignmentTaskConfig, DualEncoderConfig
from plumbline.stage import StageSpec
from plumbline.training.sections import TrainingConfig, TrainSection


class AlignmentTrainSection(TrainSection):
    """Section `train` of an alignment."""

    model: DualEncoderConfig
    task: AlignmentTaskConfig

    @model_validator(mode="after")
    def _something_to_compare(self) -> "AlignmentTrainSection":
        if self.loader.batch_size * self.trainer.grad_accum_steps == 1:
            raise ValueError(
                "loader.batch_size 1 and trainer.grad_accum_steps 1: a pair is told from the "
                "others of its optimiser step, and there would be none; raise one of them"
            )
        return self


class PretrainAlignmentConfig(TrainingConfig):
    """What is aligned, and how."""

    train: AlignmentTrainSection

    @property
    def builder(self) -> str:
        """See `TrainingConfig`."""
        return "plumbline.kinds.alignment.train:build"


PRETRAIN_ALIGNMENT = StageSpec(
    name="pretrain_alignment",
    schema=PretrainAlignmentConfig,
    group="align",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "data": f"align.{key}.data",
        "train": f"align.{key}.train",
    },
)
