"""The bundle, loaded: requests in, answers out, and the self-test."""

import importlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contract import COMMON, SELFTEST, Shape, blamed, check_shape
from .files import BundleError, Files, Graph, InputError, open_graph
from .inputs import Arrays, fingerprint

CONTRACT_VERSION = 2

TYPES: dict[str, tuple[type, ...]] = {
    "file": (bytes,),
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "flag": (bool,),
    "texts": (list,),
}
"""Type of a field -> what a value of it is in Python."""


class Task(ABC):
    """Base of the tasks: what a kind of model makes of a request."""

    name: str
    """What contract.json calls it."""
    fields: dict[str, str]
    """Name of a field -> one of `TYPES`."""
    required: tuple[str, ...] = ()
    exact = True
    """Whether the model's inputs are the same bits on any processor."""
    parts: frozenset[str]
    """Of the model: the graphs that every format has."""

    @staticmethod
    @abstractmethod
    def fields_of(contract: Mapping[str, Any]) -> dict[str, str]:
        """Name of each field of a request -> its type."""

    @staticmethod
    @abstractmethod
    def shape(contract: Mapping[str, Any]) -> Shape:
        """What the task reads of a contract, beside `COMMON`."""

    def __init__(self, contract: dict[str, Any], files: Files, graphs: dict[str, Graph]) -> None:
        self.contract, self.files, self.graphs = contract, files, graphs

    @abstractmethod
    def inputs(self, request: Mapping[str, Any]) -> Arrays:
        """What the model is given for a request, before anything is computed.

        Raises:
            InputError: a field cannot be used.
        """

    @abstractmethod
    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request with plain JSON values; errors as `inputs`."""

    def cut_tokens(self, request: Mapping[str, Any]) -> int:
        """Tokens of a request's text that the model is not shown, because it takes fewer."""
        return 0


class Model:
    """The bundle: `Model().predict({"image": data, ...})`. Safe to use from threads."""

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        format: str | None = None,
        threads: int = 0,
        task_class: type[Task] | None = None,
    ) -> None:
        """Check and open the files.

        Args:
            folder: the bundle; None: the one that this file lies in.
            format: onnx or torchscript; None: the default of the contract.
            threads: compute threads; 0: as in the contract.
            task_class: what answers; None: the one of the bundle.

        Raises:
            BundleError: a file is missing or has changed, or the format is not there.
        """
        self.files = Files(bundle_folder() if folder is None else Path(folder))
        task_class = task_class or find_task()
        self.contract = read_contract(self.files, task_class)
        formats = self.contract["formats"]
        self.format = format or self.contract["default_format"]
        if self.format not in formats:
            raise BundleError(f"format {self.format}: not in this bundle ({', '.join(formats)})")
        parts = dict(formats[self.format])
        for name in parts.pop("external", []):
            self.files.check(name)
        if parts.keys() != task_class.parts:
            raise BundleError(f"contract.json: formats.{self.format} names other graphs")
        threads = threads or self.contract["threads"]
        with blamed("contract.json"):
            graphs = {
                part: open_graph(self.files.check(name), self.format, threads)
                for part, name in parts.items()
            }
            self.task = task_class(self.contract, self.files, graphs)

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a request: values by field, files as bytes.

        Where a text is longer than the model takes, `cut_tokens` in the answer says by how much.

        Raises:
            InputError: a field is missing, unknown, or cannot be used.
        """
        checked = self._checked(request)
        answer: dict[str, Any] = self.task.predict(checked)
        cut = self.task.cut_tokens(checked)
        return {**answer, "cut_tokens": cut} if cut else answer

    def fingerprint(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What identifies the inputs of a request; errors as `predict`."""
        return fingerprint(self.task.inputs(self._checked(request)), exact=self.task.exact)

    def _checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in request.items() if value is not None}
        fields = self.task.fields
        if unknown := [name for name in given if name not in fields]:
            raise InputError(f"{unknown[0][:40]}: no such field; there is {', '.join(fields)}")
        if missing := [name for name in self.task.required if name not in given]:
            raise InputError(f"{missing[0]}: missing")
        for name, value in given.items():
            types = TYPES[fields[name]]
            # True is an int to Python, and no number to anyone else.
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise InputError(f"{name}: not of type {fields[name]}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name}: no finite number")
            if isinstance(value, list) and not all(isinstance(v, str) for v in value):
                raise InputError(f"{name}: not a list of texts")
        return given


def bundle_folder() -> Path:
    """The bundle that this file is part of."""
    return Path(__file__).resolve().parents[1]


def read_contract(files: Files, task_class: type[Task]) -> dict[str, Any]:
    """Read contract.json.

    Raises:
        BundleError: it is missing, has changed, is of another version, or lacks what its task
            reads.
    """
    contract: dict[str, Any] = _read_json(files, "contract.json")
    if not isinstance(contract, dict) or contract.get("contract_version") != CONTRACT_VERSION:
        raise BundleError("contract.json: of another version than the scripts")
    check_shape(contract, {"task": {task_class.name}}, "contract.json")
    check_shape(contract, {**COMMON, **task_class.shape(contract)}, "contract.json")
    return contract


def _read_json(files: Files, name: str) -> Any:
    try:
        return json.loads(files.read(name))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not readable as JSON ({error})") from None


def find_task() -> type[Task]:
    """What answers in the bundle that this file is part of.

    Raises:
        BundleError: it is missing.
    """
    place = f"{__package__}.task"
    try:
        task: type[Task] = importlib.import_module(place).TASK
    except ModuleNotFoundError as error:
        if error.name != place:
            raise  # a package that is not installed
        raise BundleError("runtime/task.py: missing; copy the whole bundle") from None
    return task


def selftest(model: Model) -> dict[str, Any]:
    """Repeat the stored samples: inputs bit for bit where that can be, answers word for word.

    Raises:
        BundleError: something differs from what was recorded at export.
    """
    for name in model.files.digests:
        if name != "server.json":  # its settings are for whoever runs the server to change
            model.files.check(name)
    stored = _read_json(model.files, "selftest/selftest.json")
    check_shape(stored, SELFTEST, "selftest/selftest.json")
    for sample in [*stored["preprocessing"], *stored["answers"]]:
        with blamed(sample["name"]):
            got = model.fingerprint(stored_request(model, sample))
        if not agree(sample["inputs"], got, stored["input_tolerance"]):
            raise BundleError(f"{sample['name']}: preprocessing gives other inputs")
    for sample in stored["answers"]:
        with blamed(sample["name"]):
            answer = model.predict(stored_request(model, sample))
        if not agree(sample["answer"], answer, stored["tolerance"]):
            said, wanted = (json.dumps(v)[:300] for v in (answer, sample["answer"]))
            raise BundleError(f"{sample['name']}: answered {said}, expected {wanted}")
    counts = {name: len(stored[name]) for name in ("preprocessing", "answers")}
    if not counts["answers"]:
        raise BundleError("selftest/selftest.json: holds no answer; copy the whole bundle")
    return {"selftest": "ok", "format": model.format, **counts}


def stored_request(model: Model, sample: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a stored sample, its files read."""
    fields = model.task.fields
    return {
        name: model.files.read(value) if fields[name] == "file" else value
        for name, value in sample["request"].items()
    }


def agree(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether two JSON values are equal, numbers with fractions within a tolerance."""
    if isinstance(expected, dict) and isinstance(got, dict):
        same = expected.keys() == got.keys()
        return same and all(agree(expected[key], got[key], tolerance) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        pairs = zip(expected, got, strict=False)
        return len(expected) == len(got) and all(agree(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, float) and isinstance(got, float):
        return abs(expected - got) <= tolerance * max(1.0, abs(expected))
    return bool(expected == got)
