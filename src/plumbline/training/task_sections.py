"""What the training of a task reads of params.yaml, by its kind. No torch here."""

from pathlib import Path

from pydantic import create_model

from plumbline.stage import StageSpec
from plumbline.tasks.kinds import KINDS
from plumbline.training.sections import TrainingConfig, TrainSection


class FinetuneConfig(TrainingConfig):
    """What is trained, on what, starting from what."""

    kind: str
    start: str

    @property
    def builder(self) -> str:
        """See `TrainingConfig`."""
        return KINDS[self.kind].build

    @property
    def start_folder(self) -> Path:
        """See `TrainingConfig`."""
        return Path(self.start)


def schema_of_kind(kind: str) -> type[FinetuneConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    entry = KINDS[kind]
    train = create_model(
        "TrainSection", __base__=TrainSection, model=(entry.model, ...), task=(entry.task, ...)
    )
    return create_model("FinetuneConfig", __base__=FinetuneConfig, train=(train, ...))


FINETUNE = StageSpec(
    name="finetune",
    schema=FinetuneConfig,
    schema_of_kind=schema_of_kind,
    group="tasks",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "start": f"tasks.{key}.start",
        "train": f"tasks.{key}.train",
    },
)
