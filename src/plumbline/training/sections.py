"""What every training reads of params.yaml. No torch here."""

from abc import ABC, abstractmethod
from pathlib import Path

from pydantic import Field, create_model, model_validator

from plumbline.config import Config
from plumbline.kind import Kind, KindSettings
from plumbline.loading.loader_config import LoaderConfig
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.config import TrainerConfig
from plumbline.training.task_config import TaskConfig

TRAINS = ("settings", "model", "train")
"""The roles of its kind that a training runs."""

SHAPE_NOTHING = {
    "train": {
        "loader": {"workers", "cache_mb", "timeout_s"},
        "trainer": {"timeout_s", "checkpoint"},
    }
}
"""Settings under any value of which a training goes on from its state."""


class TrainSection(Config):
    """Section `train` of a task or an alignment."""

    model: Config
    """Sizes or checkpoints of the parts of the model."""
    freeze: list[str] = Field(default_factory=list)
    """Parts of the model that stay as they are, such as image_encoder."""
    adapters: dict[str, AdapterConfig] = Field(default_factory=dict)
    """Part of the model -> its adapter; the part's own weights stay as they are."""
    task: TaskConfig
    """What is optimised, and how rows become samples."""
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    """How samples become batches."""
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    """The training loop."""

    @model_validator(mode="after")
    def _shares(self) -> "TrainSection":
        size, processes = self.loader.batch_size, self.trainer.processes
        if processes > size:
            raise ValueError(
                f"trainer.processes {processes} share a batch, and loader.batch_size is {size}: "
                "there would be processes without a sample"
            )
        micro = self.trainer.micro_batch_size
        if isinstance(micro, int) and micro > size:
            raise ValueError(
                f"trainer.micro_batch_size {micro} is a part of a batch, and loader.batch_size is "
                f"{size}: lower it, or set it to null"
            )
        return self

    @model_validator(mode="after")
    def _adapted(self) -> "TrainSection":
        for part in self.adapters:
            if any(part == f or part.startswith(f"{f}.") for f in self.freeze):
                raise ValueError(
                    f"adapters.{part} trains beside a part that freeze names: take it out of "
                    "freeze, its own weights stay as they are"
                )
        if self.adapters and self.trainer.meets:
            other = "shard_layers" if self.trainer.shard_layers else "engine"
            raise ValueError(
                f"adapters.{next(iter(self.adapters))} and trainer.{other}: parts with "
                "adapters are not spread over processes; set one of the two"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSection":
        self.task.check_model(self.model)
        # One sample in the whole optimiser step: a contrastive loss has nothing to compare.
        if self.loader.batch_size * self.trainer.grad_accum_steps == 1:
            self.task.check_lone_sample()
        if not self.task.has_lengths:
            by_length = {
                "bucket_by_length": self.loader.bucket_by_length,
                "max_tokens": self.loader.max_tokens is not None,
            }
            for setting in [name for name, used in by_length.items() if used]:
                raise ValueError(
                    f"loader.{setting}: the samples of this task all count as equally long (blocks "
                    "of a stream, images with their texts); leave it out"
                )
        return self


def train_section(settings: KindSettings) -> type[TrainSection]:
    """The section `train` of one kind of work."""
    return create_model(
        "TrainSection",
        __base__=TrainSection,
        model=(settings.model, ...),
        task=(settings.task, ...),
    )


class TrainingConfig(Config, ABC):
    """What every training has."""

    seed: int
    """Of everything that training draws: weights, order, augmentation, masks."""
    threads: int = Field(ge=1)
    """Compute threads of trainings and evaluations; sums of floats depend on their number."""
    data: str
    """An entry of `datasets`."""
    weights: str
    """Folder with the records of the checkpoints that parts start from: work/weights/<set>."""
    train: TrainSection
    """Model, data loading and training loop."""

    @property
    @abstractmethod
    def work(self) -> Kind:
        """The kind of work that is trained."""

    @property
    def start_folder(self) -> Path:
        """The folder that training starts from; of no use where it starts from nothing."""
        return Path()
