"""What a sweep searches, how, and by which figure: `sweeps/<name>.yaml`."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, field_validator, model_validator
from yaml import YAMLError

from plumbline.config import Config, check_config
from plumbline.errors import ConfigError
from plumbline.metrics.known import find_metric
from plumbline.names import check_name

FOLDER = Path("sweeps")
"""Beside conf/, not in it: a new sweep is no dependency of any stage."""

Direction = Literal["maximize", "minimize"]


def _check_direction(key: str, figure: str, direction: Direction) -> None:
    """Refuse to search for what is worse, of a figure whose direction is known."""
    known = find_metric(figure)
    if known is not None and direction[:3] != known.better:
        raise ValueError(
            f"{key} {figure!r} is better when {'lower' if known.better == 'min' else 'higher'}, "
            f"but direction is {direction}"
        )


class Dimension(Config):
    """One key of the space: a list to choose from, or a range."""

    choice: list[object] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Draw evenly in the logarithm."""
    step: float | None = Field(default=None, gt=0)
    integer: bool = Field(default=False, alias="int")

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> Self:
        if self.choice is not None:
            if (self.low, self.high, self.step) != (None, None, None) or self.log or self.integer:
                raise ValueError("choice stands alone; low, high, log, step and int make a range")
            if not self.choice or any(value in self.choice[:n] for n, value in self._numbered()):
                raise ValueError("choice needs at least one value, each of them once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs choice: [...], or low and high")
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        whole = all(float(v).is_integer() for v in (self.low, self.high, self.step or 1))
        if self.integer and not whole:
            raise ValueError("int needs whole numbers for low, high and step")
        return self

    def _numbered(self) -> list[tuple[int, object]]:
        return list(enumerate(self.choice or []))


class Prune(Config):
    """Stop a run whose intermediate figure is worse than the median at the same place.

    Source: the median rule of Golovin et al. 2017, Google Vizier, section 3.2.
    """

    stage: str
    """The training stage whose live record is read, such as finetune@vqa."""
    value: str = "val/loss"
    """A series of that record; its first, second, ... values are compared across points."""
    direction: Direction = "minimize"
    after_points: int = Field(default=4, ge=1)
    """Points that must have ended well before any is stopped."""
    after_values: int = Field(default=1, ge=0)
    """Values that every run may have before it can be stopped."""

    @model_validator(mode="after")
    def _right_way(self) -> Self:
        _check_direction("value", self.value.removeprefix("val/"), self.direction)
        return self


class SweepConfig(Config):
    """One search; its name is that of its file."""

    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted key of params.yaml, or a group of conf/, to its values."""
    metric: str
    """`file:dotted.key`: a metrics file, or any JSON or YAML file of an output."""
    direction: Direction
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    sampler_seed: int = Field(default=0, ge=0)
    startup_points: int | None = Field(default=None, ge=1)
    """Points that tpe draws at random first; a third of `points`, at most 10, when null."""
    points: int | None = Field(default=None, ge=1)
    """How many to try; the whole grid when null, which only a grid may be."""
    seeds: list[int] = []
    """Each point is repeated with each of these as `seed`; none: once, with the seed of conf/."""
    overrides: list[str] = []
    """Overrides that all points share, such as experiment=smoke."""
    targets: list[str] = []
    """Stages to run, such as evaluate_model@vqa; the whole DAG when empty."""
    jobs: int = Field(default=1, ge=1)
    """Runs at a time: workers of the DVC queue."""
    slots: list[int | str] = []
    """GPUs of the workers, one entry each: 0, or "0,1" for two. A worker's runs see no other GPU.
    None: every run sees all."""
    prune: Prune | None = None

    @field_validator("metric")
    @classmethod
    def _names_file_and_key(cls, value: str) -> str:
        if not re.fullmatch(r"[^:]+\.(json|yaml|yml):[^:]+", value):
            raise ValueError("write file:key, such as metrics/tasks/vqa.json:exact_match")
        if Path(value).is_absolute():
            raise ValueError("the file is a path within the project")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.points is None and self.sampler != "grid":
            raise ValueError("points is missing: how many shall be tried?")
        if any(a == b for a, b in pairwise(sorted(self.seeds))):
            raise ValueError("seeds names one twice")
        figure = self.metric.partition(":")[2]
        _check_direction("metric", figure.rpartition(".")[2], self.direction)
        if self.seeds and "seed" in self.space:
            raise ValueError("seed is in the space and in seeds; leave one of them out")
        self.check_slots()
        return self

    def check_slots(self) -> None:
        """Refuse more runs at a time than slots, and a GPU in two of them.

        Raises:
            ValueError: names both settings.
        """
        if not self.slots:
            return
        if self.jobs > len(self.slots):
            raise ValueError(f"jobs {self.jobs} runs at a time, but slots names {len(self.slots)}")
        gpus = [gpu for slot in self.slots for gpu in str(slot).split(",")]
        if not all(gpu.strip() for gpu in gpus) or len(set(gpus)) < len(gpus):
            raise ValueError(f"slots {self.slots}: name each GPU once, such as [0, 1]")

    @property
    def identity(self) -> dict[str, object]:
        """What makes two searches the same; more points, jobs or slots go on with it."""
        return self.model_dump(mode="json", by_alias=True, exclude={"points", "jobs", "slots"})


class _File(Config):
    sweep: SweepConfig


def load_sweep(root: Path, name: str) -> SweepConfig:
    """Read and check `sweeps/<name>.yaml`.

    Raises:
        ConfigError: the file is missing or wrong; one line names the key and the rule.
    """
    path = root / FOLDER / f"{name}.yaml"
    check_name("sweep", name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (root / FOLDER).glob("*.yaml"))) or "none"
        raise ConfigError(f"{FOLDER / path.name}: there is no such sweep; there is {known}")
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{FOLDER / path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{FOLDER / path.name}: holds no settings")
    try:
        return check_config(_File, {"sweep": "sweep"}, {"sweep": raw}).sweep
    except ConfigError as error:
        text = str(error).removeprefix("sweep").lstrip(".: ")
        raise ConfigError(f"{FOLDER / path.name}: {text}") from None
