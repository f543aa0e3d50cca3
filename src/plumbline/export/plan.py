"""The contract between a kind of model and the bundle: what is special, in one class a kind."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import numpy as np
from torch import nn
from typing_extensions import TypeVar

from plumbline.errors import ExportError
from plumbline.export.config import ExportConfig
from plumbline.export.graphs import GraphSpec
from plumbline.export.parity import Parity, larger
from plumbline.export.provenance import Provenance
from plumbline.export.runtime.contract import Contract
from plumbline.export.runtime.files import Array
from plumbline.export.runtime.inputs import Request as Request
from plumbline.export.runtime.model import Model, Task
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.spec import ModelSpec
from plumbline.models.stored import Stored

READERS: dict[str, tuple[str, ...]] = {
    "image": (
        "plumbline/export/runtime/pixel_values.py",
        "plumbline/data/images.py",
        "plumbline/data/parts.py",
        "plumbline/data/image_headers.py",
        "plumbline/data/image_parts.py",
        "plumbline/data/avif_parts.py",
        "plumbline/data/boxes.py",
        "plumbline/data/tiff_entries.py",
        "plumbline/data/tiff_parts.py",
    ),
    "audio": (
        "plumbline/export/runtime/audio_features.py",
        "plumbline/data/audio.py",
        "plumbline/data/audio_headers.py",
    ),
    "features": (),
    "text": ("plumbline/export/runtime/text.py",),
}
"""Modality -> code that reads it, beside what every bundle has: copied as it is."""


def module_of(file: str) -> str:
    """The module of a file of code that a bundle copies, such as plumbline/data/images.py."""
    return file.removesuffix(".py").replace("/", ".")


ConfigT = TypeVar("ConfigT", bound=ExportConfig)
ModelT = TypeVar("ModelT", bound=nn.Module, default=nn.Module)
SpecT = TypeVar("SpecT", bound=ModelSpec, default=ModelSpec)


@dataclass(frozen=True)
class BundleSource(Generic[ModelT, SpecT]):
    """What a bundle is made from."""

    stored: Stored[ModelT, SpecT]
    cache: TrainingCache
    training: Mapping[str, object]
    """The settings of the training, as plain JSON types."""
    threads: int
    adapters: Path | None = None
    """Folder with the adapters that were merged into the model, where there are some."""
    provenance: Provenance | None = None
    """Digests of what it is made from; None: it is no stage that exports."""


@dataclass(frozen=True)
class SelftestSample:
    """A request that the bundle stores with its answer."""

    request: Request
    suffix: str
    """Of the files in it, such as .png."""
    expected: Mapping[str, object]
    """What the checkpoint says; the bundle's answer may hold more."""


FILE = "FILE"
"""In the example of a README: the first stored file."""


@dataclass(frozen=True)
class Readme:
    """What is special in the README of a bundle."""

    title: str
    answer: str
    """A sentence on what an answer holds."""
    example: Request
    """A request; `FILE`, or a list of it, stands for the first stored file."""
    graphs: dict[str, str]
    """Part -> what its graph maps to what, in words."""
    suffix: str = ""
    """Of the stored files, such as .png."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File of the kind's own -> what it holds."""


class BundlePlan(ABC, Generic[ConfigT, ModelT, SpecT]):
    """Base of the plans: enough by itself for a kind whose weights alone are exported.

    Its types are the classes of the kind's section `export`, of its model and of its spec.
    """

    packages: tuple[str, ...] = ()
    """What the bundle needs beside numpy and what its formats need."""

    def __init__(self, source: BundleSource[ModelT, SpecT], config: ConfigT) -> None:
        """Remember what is exported and how."""
        self.source, self.config = source, config
        self.stored, self.cache = source.stored, source.cache

    @abstractmethod
    def contract(self) -> dict[str, object]:
        """The kind's sections of contract.json, `task` among them."""

    def description(self) -> dict[str, object]:
        """Sizes for metadata.json."""
        return {}


class GraphPlan(BundlePlan[ConfigT, ModelT, SpecT]):
    """Base of the plans of kinds that have graphs, and so a bundle that answers requests."""

    runtime: tuple[str, ...]
    """Files of code that answer in a bundle, copied as they are beside what every bundle has: the
    kind's own first, whose `TASK` it is, such as plumbline/kinds/vlm/runtime.py."""
    readme: Readme

    def task_class(self) -> type[Task[Contract]]:
        """What answers in the bundle."""
        task: type[Task[Contract]] = importlib.import_module(module_of(self.runtime[0])).TASK
        return task

    def check(self) -> None:
        """Refuse what no graph can be made of.

        Raises:
            ExportError: with the remedy.
        """

    def store(self, out: Path) -> None:
        """Write files of the kind's own into the bundle, where it has any beside its graphs."""

    @abstractmethod
    def graphs(self) -> dict[str, GraphSpec]:
        """The graphs by the names of their parts."""

    @abstractmethod
    def measure(self, exported: Model) -> Parity:
        """Compare the bundle, through its own script, with the checkpoint.

        Raises:
            ExportError: the split has no sample.
        """

    @abstractmethod
    def selftest(self, exported: Model) -> list[SelftestSample]:
        """Samples to store with what the checkpoint says to them."""

    def preprocessing(self) -> dict[str, Request]:
        """Requests by name that take the preprocessing through its turns."""
        return {}


def check_split(cache: TrainingCache, split: str) -> None:
    """Refuse a split that the dataset does not have.

    Raises:
        ExportError: it has others; the text names them.
    """
    if split not in cache.splits:
        raise ExportError(
            f"export.split = {split!r}: the dataset has only {', '.join(cache.splits)}; "
            "set export.split to one of them"
        )


def spread(total: int, count: int) -> list[int]:
    """Up to `count` places evenly spread over `total`, first and last among them."""
    # Whole positions coincide where there are fewer than `count`.
    places: list[int] = np.unique(np.linspace(0, total - 1, count).astype(int)).tolist()
    return places


def max_difference(one: Sequence[Array], other: Sequence[Array]) -> float:
    """Largest absolute difference between two lists of arrays.

    Infinite where shapes differ, NaN where a difference is none.
    """
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        # Another length, such as one token more, is no small difference.
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            # In float64: ids as well as scores are exact in it.
            worst = larger(worst, np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    return worst
