"""verify.yaml: how far figures may lie apart on machines of different types."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field

from plumbline.config import Config, check_config, compose_yaml

SETTINGS = "verify"


class Allowed(Config):
    """The larger of the two counts."""

    absolute: float = Field(default=0.0, ge=0.0)
    relative: float = Field(default=0.0, ge=0.0)
    """As a share of the recorded figure."""


class Rule(Allowed):
    """What is allowed for the figures whose name fits."""

    figure: str
    """Shell pattern on `tasks/vqa:exact_match`: the file below metrics/, a colon, the name."""


class Tolerances(Config):
    """The first rule that fits a figure counts; `default` where none does."""

    default: Allowed = Allowed()
    figures: list[Rule] = []
    exact: list[str] = ["*"]
    """Shell patterns of stages whose bytes must be equal on every machine."""

    def allowed(self, figure: str, recorded: float) -> float:
        """The largest allowed distance of a figure from its recorded value."""
        fitting = (rule for rule in self.figures if fnmatchcase(figure, rule.figure))
        rule = next(fitting, self.default)
        return max(rule.absolute, rule.relative * abs(recorded))

    def is_exact(self, stage: str) -> bool:
        """Whether a stage must give the same bytes everywhere."""
        return any(fnmatchcase(stage, pattern) for pattern in self.exact)


def read_tolerances(folder: Path) -> Tolerances:
    """Read `folder/verify.yaml`; without the file nothing but equal bytes is tolerated.

    Raises:
        ConfigError: a setting of it is wrong.
    """
    if not (folder / f"{SETTINGS}.yaml").is_file():
        return Tolerances()
    settings = compose_yaml(folder, SETTINGS, [])
    return check_config(Tolerances, {name: name for name in Tolerances.model_fields}, settings)


def figures_of(content: object, file: str) -> dict[str, object]:
    """Name -> value of every leaf of a metrics file, as `tasks/vqa:exact_match`."""
    prefix = file.removeprefix("metrics/").removesuffix(".json")
    return {f"{prefix}:{name}": value for name, value in _leaves(content, "")}


def _leaves(node: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        yield path, node
        return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else key)
