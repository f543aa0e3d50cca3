"""What is reported on: the keys of params.yaml's three mappings, and how they hang together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plumbline import paths


@dataclass(frozen=True)
class Task:
    """A selected task."""

    data: str
    start: str
    """The path that it starts from, as params.yaml has it; "" where it starts from nothing."""


@dataclass(frozen=True)
class Selection:
    """The current selection, in the order of params.yaml."""

    datasets: tuple[str, ...]
    align: Mapping[str, str]
    """Alignment -> its dataset."""
    tasks: Mapping[str, Task]

    @classmethod
    def from_params(
        cls, datasets: Mapping[str, Any], align: Mapping[str, Any], tasks: Mapping[str, Any]
    ) -> "Selection":
        """Take the names, `data` and `start` from the mappings of params.yaml."""
        return cls(
            datasets=tuple(datasets),
            align={name: str(entry["data"]) for name, entry in align.items()},
            tasks={
                name: Task(str(entry["data"]), _start(entry, datasets))
                for name, entry in tasks.items()
            },
        )

    def alignment_under(self, task: str) -> str | None:
        """The selected alignment that a task starts from, if it starts from one."""
        start = self.tasks[task].start.rstrip("/")
        return next((name for name in self.align if str(paths.aligned(name)) == start), None)

    def task_under(self, task: str) -> str | None:
        """The selected task that a task starts from, if it starts from one."""
        start = self.tasks[task].start.rstrip("/")
        return next((name for name in self.tasks if str(paths.finetuned(name)) == start), None)


def _start(entry: Mapping[str, Any], datasets: Mapping[str, Any]) -> str:
    """The start of a task; one that names its dataset, which is no model, starts from nothing."""
    start = str(entry.get("start") or "")
    dataset = datasets.get(entry["data"])
    source = dataset.get("path") if isinstance(dataset, Mapping) else None
    return "" if start in (source, paths.cache(str(entry["data"])).as_posix()) else start
