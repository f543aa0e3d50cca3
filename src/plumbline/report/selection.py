"""What is reported on: the keys of params.yaml's three mappings, and how they hang together."""

from collections.abc import Mapping
from dataclasses import dataclass

from plumbline import paths
from plumbline.errors import ConfigError


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
        cls,
        datasets: Mapping[str, object],
        align: Mapping[str, object],
        tasks: Mapping[str, object],
    ) -> "Selection":
        """Take the names, `data` and `start` from the mappings of params.yaml."""
        return cls(
            datasets=tuple(datasets),
            align={name: str(_of(entry, name, "data")) for name, entry in align.items()},
            tasks={
                name: Task(str(_of(entry, name, "data")), _start(entry, name, datasets))
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


def _of(entry: object, name: str, key: str) -> object:
    """A value of an entry of params.yaml; None where it has none.

    Raises:
        ConfigError: it is no entry.
    """
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{name} = {entry!r}: a mapping of settings is expected")
    return entry.get(key)


def _start(entry: object, name: str, datasets: Mapping[str, object]) -> str:
    """The start of a task; one that names its dataset, which is no model, starts from nothing."""
    start, data = str(_of(entry, name, "start") or ""), str(_of(entry, name, "data"))
    dataset = datasets.get(data)
    source = dataset.get("path") if isinstance(dataset, Mapping) else None
    return "" if start in (source, paths.cache(data).as_posix()) else start
