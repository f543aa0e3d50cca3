"""`plumbline.load`: an exported bundle, opened in this process and asked as a function."""

import hashlib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plumbline.errors import CheckpointError, ConfigError, DataError
from plumbline.export.runtime.guard import DIGESTS, BundleError, check_code
from plumbline.text import shown

CONTRACT = "contract.json"

FileValue = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.generic]
"""What stands for a file in a request: its bytes, its path, or what it holds."""


class _Task(Protocol):
    fields: Mapping[str, str]


class _Model(Protocol):
    """`Model` of the runtime that lies in a bundle."""

    format: str
    task: _Task

    def predict(self, request: Mapping[str, object]) -> dict[str, object]: ...


class Bundle:
    """A loaded bundle: `bundle(image="cat.png", question="what is it?")`."""

    def __init__(self, folder: Path, runtime: ModuleType, model: _Model) -> None:
        """Hold what answers, and the errors that it raises."""
        self.folder = folder
        self._model = model
        self._refusal: type[Exception] = runtime.InputError
        self._damage: type[Exception] = runtime.BundleError

    @property
    def fields(self) -> dict[str, str]:
        """What it can be asked: name of a field -> its type, such as file, text or number."""
        return dict(self._model.task.fields)

    def __repr__(self) -> str:
        return f"Bundle({str(self.folder)!r}, fields={self.fields})"

    def __call__(
        self, inputs: Mapping[str, object] | None = None, /, **fields: object
    ) -> dict[str, object]:
        """Answer a request, given as a mapping or by keywords.

        A file may be its bytes, a path, a PIL image, or an array [...] of features.

        Returns:
            What `inference.py` of the bundle prints: plain values.

        Raises:
            DataError: a field is missing, unknown, or cannot be used.
        """
        request = {**(inputs or {}), **fields}
        known = self._model.task.fields
        read = {name: _read(name, value, known.get(name, "")) for name, value in request.items()}
        try:
            with _no_bytecode():  # what a task imports when it is first asked
                return self._model.predict(read)
        except self._refusal as error:
            raise DataError(shown(str(error))) from None
        except self._damage as error:
            raise CheckpointError(f"{self.folder}: {shown(str(error))}") from None


def load(folder: str | Path, *, format: str | None = None, threads: int = 0) -> Bundle:
    """Open a bundle as `export_model` writes it; every file is compared with its digest first.

    The code that answers is the bundle's own, so the answers are those of its `inference.py`.

    Args:
        folder: such as exports/vqa.
        format: one of the bundle's; None: its default.
        threads: compute threads; 0: as at export.

    Raises:
        ConfigError: the folder is no bundle; says what it is and what to do.
        CheckpointError: a file is missing or has changed, or the format is not there.
    """
    place = Path(folder).resolve()
    if not (place / CONTRACT).is_file() or not (place / "runtime").is_dir():
        raise ConfigError(_no_bundle(Path(folder)))
    try:
        check_code(place)
    except BundleError as error:
        raise CheckpointError(f"{folder}: {shown(str(error))}") from None
    with _no_bytecode():
        runtime = _own_runtime(place)
        try:
            model: _Model = runtime.Model(place, format=format, threads=threads)
        except runtime.BundleError as error:
            raise CheckpointError(f"{folder}: {shown(str(error))}") from None
    return Bundle(place, runtime, model)


def _own_runtime(folder: Path) -> ModuleType:
    """Import the checked code of a bundle under a name of its own, beside that of other bundles."""
    # By the digests, too: a bundle that was exported again is other code under the same path.
    key = hashlib.sha256(os.fsencode(folder) + (folder / DIGESTS).read_bytes()).hexdigest()[:16]
    name, where = f"_plumbline_bundle_{key}", folder / "runtime"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, where / "__init__.py", submodule_search_locations=[str(where)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.model")


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leave a bundle as it was exported: what it does not name is refused, `__pycache__` too."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _read(name: str, value: object, kind: str) -> object:
    """A value of a request as the runtime takes it: files as their bytes."""
    if kind == "file":
        return _file(name, value)
    if kind == "files" and isinstance(value, list | tuple):
        return [_file(name, each) for each in value]
    return value


def _file(name: str, value: object) -> object:
    if isinstance(value, str | os.PathLike):
        try:
            return Path(value).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: {value}: {error.strerror}") from None
    held = io.BytesIO()
    if isinstance(value, Image.Image):
        value.save(held, "PNG")  # without loss
        return held.getvalue()
    if isinstance(value, np.ndarray):
        np.save(held, value, allow_pickle=False)
        return held.getvalue()
    return value


def _no_bundle(folder: Path) -> str:
    """What a folder is instead of a bundle, and what to do."""
    if not folder.is_dir():
        return f"{folder}: no such folder; plumbline run makes exports/<task>"
    if (folder / "model.json").is_file():
        return (
            f"{folder}: a trained model, not exported yet: dvc repro export_model@{folder.name} "
            f"makes exports/{folder.name}, or ask it by plumbline predict"
        )
    if any(folder.glob("step-*/state.json")) or any(folder.glob("*/step-*/state.json")):
        return (
            f"{folder}: the state of a training, not a bundle: the call of plumbline.fit with this "
            "state returns its model"
        )
    return f"{folder}: no bundle: {CONTRACT} and runtime/ are missing; name a folder of exports/"
