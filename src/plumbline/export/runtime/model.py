"""The bundle, loaded: requests in, answers out, and the self-test."""

import importlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Generic, TypedDict, TypeVar

from .contract import COMMON, SELFTEST, Contract, Fields, blamed, check_shape
from .files import BundleError, Files, Graph, InputError, OpenGraph
from .inputs import Arrays, Request, fingerprint

CONTRACT_VERSION = 2

TYPES: dict[str, tuple[type, ...]] = {
    "file": (bytes,),
    "files": (list,),
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "flag": (bool,),
    "texts": (list,),
    "turns": (list,),
}
"""Type of a field -> what a value of it is in Python."""


LISTS: dict[str, tuple[type, str]] = {"texts": (str, "texts"), "files": (bytes, "files")}
"""Type of a field -> what a list of it holds, and its name."""

ContractT = TypeVar("ContractT", bound=Contract, covariant=True)


class Task(ABC, Generic[ContractT]):
    """Base of the tasks: what a kind of model makes of a request."""

    name: str
    """What contract.json calls it."""
    fields: dict[str, str]
    """Name of a field -> one of `TYPES`."""
    required: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    """Fields of which a request has one."""
    exact = True
    """Whether the model's inputs are the same bits on any processor."""
    parts: frozenset[str]
    """Of the model: the graphs that every format has."""

    @staticmethod
    @abstractmethod
    def fields_of(contract: Mapping[str, object]) -> dict[str, str]:
        """Name of each field of a request -> its type."""

    @staticmethod
    @abstractmethod
    def shape(contract: Mapping[str, object]) -> Fields:
        """What the task reads of a contract, beside `COMMON`: what its `ContractT` says."""

    def __init__(self, contract: ContractT, files: Files, graphs: dict[str, Graph]) -> None:
        self.contract, self.files, self.graphs = contract, files, graphs

    @abstractmethod
    def inputs(self, request: Request) -> Arrays:
        """What the model is given for a request, before anything is computed.

        Raises:
            InputError: a field cannot be used.
        """

    @abstractmethod
    def predict(self, request: Request) -> dict[str, object]:
        """Answer a request with plain JSON values; errors as `inputs`."""

    def cut_tokens(self, request: Request) -> int:
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
        task_class: type[Task[Contract]] | None = None,
        open_graph: OpenGraph | None = None,
    ) -> None:
        """Check and open the files.

        Args:
            folder: the bundle; None: the one that this file lies in.
            format: one of the contract's; None: its default.
            threads: compute threads; 0: as in the contract.
            task_class: what answers; None: the one of the bundle.
            open_graph: what reads the format; None: the one of the bundle.

        Raises:
            BundleError: a file is missing or has changed, or the format is not there or needs a
                package that is not installed.
        """
        self.files = Files(bundle_folder() if folder is None else Path(folder))
        task_class = task_class or find_task()
        self.contract = read_contract(self.files, task_class)
        formats = self.contract["formats"]
        self.format = format or self.contract["default_format"]
        if self.format not in formats:
            raise BundleError(f"format {self.format}: not in this bundle ({', '.join(formats)})")
        stored = formats[self.format]
        parts = {part: name for part, name in stored.items() if isinstance(name, str)}
        for name in (
            each for names in stored.values() if isinstance(names, list) for each in names
        ):
            self.files.check(name)
        # A task calls its graphs by name: one too few would be found at the first request.
        if parts.keys() != task_class.parts:
            raise BundleError(f"contract.json: formats.{self.format} names other graphs")
        threads = threads or self.contract["threads"]
        with blamed("contract.json"):
            with _installed(self.format):
                read = open_graph or find_reader(self.files, self.format)
                graphs = {
                    part: read(self.files.check(name), threads) for part, name in parts.items()
                }
            self.task = task_class(self.contract, self.files, graphs)

    def predict(self, request: Request) -> dict[str, object]:
        """Answer a request: values by field, files as bytes.

        Where a text is longer than the model takes, `cut_tokens` in the answer says by how much.

        Raises:
            InputError: a field is missing, unknown, or cannot be used.
        """
        checked = self._checked(request)
        answer = self.task.predict(checked)
        cut = self.task.cut_tokens(checked)
        return {**answer, "cut_tokens": cut} if cut else answer

    def fingerprint(self, request: Request) -> dict[str, object]:
        """What identifies the inputs of a request; errors as `predict`."""
        return fingerprint(self.task.inputs(self._checked(request)), exact=self.task.exact)

    def _checked(self, request: Request) -> Request:
        given = {name: value for name, value in request.items() if value is not None}
        fields = self.task.fields
        if unknown := [name for name in given if name not in fields]:
            # Cut: the name comes from whoever asks.
            raise InputError(f"{unknown[0][:40]}: no such field; there is {', '.join(fields)}")
        if missing := [name for name in self.task.required if name not in given]:
            raise InputError(f"{missing[0]}: missing")
        either = self.task.either
        if either and sum(name in given for name in either) != 1:
            raise InputError(f"{' or '.join(either)}: give one of them")
        for name, value in given.items():
            types = TYPES[fields[name]]
            # True is an int to Python, and no number to anyone else.
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise InputError(f"{name}: not of type {fields[name]}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name}: no finite number")
            if fields[name] in LISTS:
                kind, words = LISTS[fields[name]]
                if not all(isinstance(each, kind) for each in _list(value)):
                    raise InputError(f"{name}: not a list of {words}")
        return given


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def bundle_folder() -> Path:
    """The bundle that this file is part of."""
    return Path(__file__).resolve().parents[1]


def read_contract(files: Files, task_class: type[Task[Contract]]) -> Contract:
    """Read contract.json, as the contract of its task.

    Raises:
        BundleError: it is missing, has changed, is of another version, or lacks what its task
            reads.
    """
    with _readable("contract.json"):
        contract: Contract = json.loads(files.read("contract.json"))
    # From here to the end its type is a promise that the checks make true.
    if not isinstance(contract, dict) or contract.get("contract_version") != CONTRACT_VERSION:
        raise BundleError("contract.json: of another version than the scripts")
    check_shape(contract, {"task": {task_class.name}}, "contract.json")
    check_shape(contract, {**COMMON, **task_class.shape(contract)}, "contract.json")
    return contract


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say which file is no JSON."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not readable as JSON ({error})") from None


def find_task() -> type[Task[Contract]]:
    """What answers in the bundle that this file is part of.

    Raises:
        BundleError: it is missing.
    """
    task: type[Task[Contract]] = _bundled("task").TASK
    return task


def find_reader(files: Files, format: str) -> OpenGraph:
    """What opens the graphs of a format in the bundle that this file is part of.

    Raises:
        BundleError: it is missing or has changed.
    """
    name = f"format_{format}"
    # The format is a text of contract.json: it names no module but one that the digests list.
    if not name.isidentifier():
        raise BundleError(f"contract.json: formats: {format!r} is no name of a format")
    files.check(f"runtime/{name}.py")
    open_graph: OpenGraph = _bundled(name).open_graph
    return open_graph


def _bundled(name: str) -> ModuleType:
    """A module of the bundle that this file is part of.

    Raises:
        BundleError: it is missing.
    """
    place = f"{__package__}.{name}"
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place:
            raise  # a package that is not installed
        raise BundleError(f"runtime/{name}.py: missing; copy the whole bundle") from None


@contextmanager
def _installed(format: str) -> Iterator[None]:
    """Say which package a format needs that is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise BundleError(f"format {format} needs {package}: pip install {package}") from None


class StoredRequest(TypedDict):
    """A sample of the self-test: its files are named where a request has their bytes."""

    name: str
    request: dict[str, object]
    inputs: dict[str, object]


class StoredAnswer(StoredRequest):
    """A sample whose answer is known."""

    answer: dict[str, object]


class StoredSamples(TypedDict):
    """What `SELFTEST` describes."""

    tolerance: float
    input_tolerance: float
    answers: list[StoredAnswer]
    preprocessing: list[StoredRequest]


def selftest(model: Model) -> dict[str, object]:
    """Repeat the stored samples: inputs bit for bit where that can be, answers word for word.

    Raises:
        BundleError: something differs from what was recorded at export.
    """
    for name in model.files.digests:
        if name != "server.json":  # its settings are for whoever runs the server to change
            model.files.check(name)
    # A format of lower precision has answers of its own.
    own = f"selftest/{model.format}.json"
    name = own if own in model.files.digests else "selftest/selftest.json"
    with _readable(name):
        stored: StoredSamples = json.loads(model.files.read(name))
    check_shape(stored, SELFTEST, name)
    # Inputs first: where they differ, so do answers, and the reason is plain.
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
    answers, preprocessing = len(stored["answers"]), len(stored["preprocessing"])
    if not answers:
        raise BundleError(f"{name}: holds no answer; copy the whole bundle")
    counts = {"preprocessing": preprocessing, "answers": answers}
    return {"selftest": "ok", "format": model.format, **counts}


def stored_request(model: Model, sample: StoredRequest) -> Request:
    """The request of a stored sample, its files read."""
    read: dict[str, object] = {}
    for name, value in sample["request"].items():
        kind = model.task.fields[name]
        if kind == "file":
            value = model.files.read(str(value))
        elif kind == "files":
            value = [model.files.read(str(each)) for each in _list(value)]
        read[name] = value
    return read


def agree(expected: object, got: object, tolerance: float) -> bool:
    """Whether two JSON values are equal, numbers with fractions within a tolerance."""
    if isinstance(expected, dict) and isinstance(got, dict):
        same = expected.keys() == got.keys()
        return same and all(agree(expected[key], got[key], tolerance) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        pairs = zip(expected, got, strict=False)
        return len(expected) == len(got) and all(agree(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, float) and isinstance(got, float):
        # Relative above 1, absolute below: logits are of either size.
        return abs(expected - got) <= tolerance * max(1.0, abs(expected))
    # Whole numbers, texts and flags are the same or not: tokens have no tolerance.
    return bool(expected == got)
