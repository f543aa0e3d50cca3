"""What is reported on: the keys of params.yaml's three mappings, and how they hang together."""

from collections.abc import Mapping, Sequence
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

    weights: Mapping[str, str]
    """Checkpoint -> where it lies."""
    objects: tuple[str, ...]
    """Listings of object stores."""
    datasets: Mapping[str, str | None]
    """Dataset -> the listing that it reads by; None: its path is no listing."""
    align: Mapping[str, str]
    """Alignment -> its dataset."""
    tasks: Mapping[str, Task]
    users: Mapping[str, Sequence[str]]
    """Folder of records of checkpoints -> the stages that depend on it."""
    sets: Mapping[str, str]
    """Checkpoint -> the set that it is in."""

    @classmethod
    def from_params(
        cls,
        objects: Mapping[str, object],
        weights: Mapping[str, object],
        datasets: Mapping[str, object],
        align: Mapping[str, object],
        tasks: Mapping[str, object],
    ) -> "Selection":
        """Take the names, `data`, `start` and `weights` from the mappings of params.yaml."""
        stages = {"tokenize_text": datasets, "pretrain_alignment": align, "finetune": tasks}
        users: dict[str, list[str]] = {}
        for stage, entries in stages.items():
            for name, entry in entries.items():
                users.setdefault(str(_of(entry, name, "weights")), []).append(f"{stage}@{name}")
        return cls(
            weights={name: str(_of(entry, name, "path")) for name, entry in weights.items()},
            sets={name: str(_of(entry, name, "set")) for name, entry in weights.items()},
            users=users,
            objects=tuple(objects),
            datasets={
                name: next((o for o in objects if str(paths.objects(o)) == path), None)
                for name, entry in datasets.items()
                for path in [_of(entry, name, "path")]
            },
            align={name: str(_of(entry, name, "data")) for name, entry in align.items()},
            tasks={
                name: Task(str(_of(entry, name, "data")), _start(entry, name, datasets))
                for name, entry in tasks.items()
            },
        )

    def alignment_under(self, task: str) -> str | None:
        """The selected alignment that a task starts from, if it starts from one."""
        return self._alignment_at(self.tasks[task].start)

    def task_under(self, task: str) -> str | None:
        """The selected task that a task starts from, if it starts from one."""
        return self._task_at(self.tasks[task].start)

    def makers_of(self, checkpoint: str) -> list[str]:
        """The stage that makes the folder of a checkpoint, where this pipeline does."""
        path = self.weights[checkpoint]
        alignment, task = self._alignment_at(path), self._task_at(path)
        made = [f"pretrain_alignment@{alignment}"] if alignment else []
        return [*made, f"finetune@{task}"] if task else made

    def users_of(self, checkpoint: str) -> list[str]:
        """The stages that depend on a checkpoint."""
        name = self.sets[checkpoint]
        folders = (paths.weights(name), paths.tokenizers(name))
        return [user for folder in folders for user in self.users.get(folder.as_posix(), [])]

    def _alignment_at(self, path: str) -> str | None:
        folder = path.rstrip("/")
        return next((name for name in self.align if str(paths.aligned(name)) == folder), None)

    def _task_at(self, path: str) -> str | None:
        folder = path.rstrip("/")
        return next((name for name in self.tasks if str(paths.finetuned(name)) == folder), None)


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
