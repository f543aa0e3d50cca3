"""What the training of a task reads of params.yaml, by its kind. No torch here."""

from pathlib import Path

from pydantic import create_model
from typing_extensions import override

from plumbline.kind import KINDS, Kind
from plumbline.stage import StageSpec
from plumbline.training.sections import TRAINS, TrainingConfig, train_section


class FinetuneConfig(TrainingConfig):
    """What is trained, on what, starting from what."""

    kind: str
    """The kind of work, which decides what the sections may hold."""
    start: str
    """What training begins from: `models/align/<name>`, `models/tasks/<name>`, or
    `work/cache/<dataset>` for nothing but the data."""

    @property
    @override
    def work(self) -> Kind:
        return KINDS[self.kind]

    @property
    @override
    def start_folder(self) -> Path:
        return Path(self.start)


def schema_of_kind(kind: str) -> type[FinetuneConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    train = train_section(KINDS[kind].settings)
    return create_model("FinetuneConfig", __base__=FinetuneConfig, train=(train, ...))


FINETUNE = StageSpec(
    name="finetune",
    schema=FinetuneConfig,
    schema_of_kind=schema_of_kind,
    roles=TRAINS,
    group="tasks",
    sections=lambda key: {
        "seed": "seed",
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "start": f"tasks.{key}.start",
        "weights": f"tasks.{key}.weights",
        "train": f"tasks.{key}.train",
    },
)
