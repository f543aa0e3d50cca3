"""The kinds of work by name, and the folder in which all that one is lies: the only table of them.

A kind is a package with a module for each of its roles, and every role has one name that is read:

| module | holds |
|---|---|
| `settings` | `SETTINGS`, its `KindSettings`; no torch |
| `model` | `SPEC`, the `ModelSpec` that is stored beside the weights |
| `train` | `build`, from (`JobContext`, model settings, task settings) to a `TrainingJob` |
| `evaluate` | `evaluate`, from an `EvaluationJob` to an `Evaluation` |
| `export` | `PLAN`, a `BundlePlan`, or a `GraphPlan` where there are graphs |
| `runtime` | `TASK`, what answers in a bundle: no torch, and of plumbline only `export/runtime` |
| `ask` | `ASK`, how it is asked from a command line; `predictions`, what its last layer says |

The last three may be missing. Roles are imported when they are used: a stage runs those of its own
kind alone, so an edit in one kind is nothing to the others.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from plumbline.errors import ConfigError
from plumbline.imports import importing
from plumbline.registry import Registry

if TYPE_CHECKING:
    from plumbline.config import Config
    from plumbline.evaluation.config import EvaluationConfig
    from plumbline.export.config import ExportConfig
    from plumbline.training.task_config import TaskConfig


@dataclass(frozen=True)
class KindSettings:
    """The classes of a kind's sections, and the kinds whose models its training can start from."""

    model: "type[Config]"
    """Section `train.model`."""
    task: "type[TaskConfig]"
    """Section `train.task`."""
    evaluate: "type[EvaluationConfig]"
    """Section `evaluate`."""
    export: "type[ExportConfig] | None" = None
    """Section `export`; None: it is not exported."""
    title: str = ""
    """What the report calls it; "": its name in words."""
    starts_from: tuple[str, ...] = ()
    """Names of kinds: their models run in its training."""


READ = {
    "settings": "SETTINGS",
    "model": "SPEC",
    "train": "build",
    "evaluate": "evaluate",
    "export": "PLAN",
    "runtime": "TASK",
}
"""Role -> the name that is read from its module; `ask` may hold one of two."""


@dataclass(frozen=True)
class Kind:
    """A kind of work."""

    name: str
    package: str

    def role(self, name: str) -> ModuleType:
        """Import one of its modules.

        Raises:
            ConfigError: it has none of this name, or the module lacks what is read from it.
        """
        if not self.has(name):
            raise ConfigError(f"kind {self.name!r} has no {name}: there is no {self.place(name)}")
        with importing():
            module = importlib.import_module(self.place(name))
        if not hasattr(module, READ.get(name, "__name__")):
            raise ConfigError(f"{module.__file__}: has no {READ[name]} (docs/extending.md)")
        return module

    def has(self, name: str) -> bool:
        """Whether it has a role."""
        return importlib.util.find_spec(self.place(name)) is not None

    def place(self, name: str) -> str:
        """The name of one of its modules."""
        return f"{self.package}.{name}"

    @property
    def settings(self) -> KindSettings:
        """The classes of its sections."""
        settings: KindSettings = self.role("settings").SETTINGS
        return settings


ALIGNMENT = Kind("alignment", "plumbline.kinds.alignment")
"""What the entries of `align` are."""

KINDS: Registry[Kind] = Registry("kind of task")
"""What an entry of `tasks` can be; a plugin's folder is a line more."""

for _name in ("vlm", "causal_lm", "masked_lm", "seq2seq", "classification", "regression"):
    KINDS.register(_name, Kind(_name, f"plumbline.kinds.{_name}"))


def known_kinds() -> dict[str, Kind]:
    """All kinds by name: of tasks, and the alignment."""
    return {ALIGNMENT.name: ALIGNMENT, **KINDS.entries()}
