"""What makes a training of a caller's objects, as digests: what of it is code, numbers and data.

Code of the caller's is followed from a function to the functions, classes and constants that it
names, as far as they lie outside of installed libraries, whose versions stand for them. It is
compared as Python compiled it: a comment changes nothing.
"""

import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plumbline.api.dataset import MapSource
from plumbline.code_digest import CodeTree, digest_tree
from plumbline.files import digest_of
from plumbline.models.weights import plain_tensors

PROBES = 16
"""Samples of a dataset that are digested: all of a large one may take hours to read."""

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), torch.dtype, torch.device)


def code_of(value: object) -> str:
    """The digest of what a callable of the caller's does."""
    return digest_of(_Described().describe(value))


def structure_of(model: nn.Module) -> str:
    """The digest of a model without its numbers: modules, their code and settings, and shapes."""
    described = _Described()
    modules = [
        [name, described.describe(type(module)), described.plain_values(module)]
        for name, module in model.named_modules()
    ]
    tensors = [
        [name, str(tensor.dtype), list(tensor.shape), tensor.requires_grad]
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    ]
    return digest_of([modules, tensors])


def weights_of(model: nn.Module) -> str:
    """The digest of the numbers that a training starts from."""
    parts = hashlib.sha256()
    for name, tensor in plain_tensors(model):
        parts.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        parts.update(_bytes_of(tensor))
    return parts.hexdigest()


def data_of(source: MapSource) -> str:
    """The digest of a dataset: its length, its code, and samples all over it.

    What names its own state, as Hugging Face's do by `_fingerprint`, is taken at its word besides.
    """
    count, described = len(source), _Described()
    own = getattr(source.data, "_fingerprint", None)
    places = sorted({int(at) for at in np.linspace(0, count - 1, PROBES)}) if count else []
    # As epoch 0 sees them: what is drawn for a sample is drawn from its own seed.
    samples = [described.values(source.sample(at, 0)["sample"]) for at in places]
    kinds = [described.describe(type(each)) for each in _layers(source.data)]
    return digest_of([count, own if isinstance(own, str) else None, kinds, samples])


def _layers(data: object) -> Iterator[object]:
    """A dataset, and those that it takes its samples from, as torch's own wrappers name them."""
    yield data
    inner = getattr(data, "datasets", None) or [getattr(data, "dataset", None)]
    for each in inner if isinstance(inner, list) else []:
        if each is not None and each is not data:
            yield from _layers(each)


def libraries_of(*objects: object) -> dict[str, str]:
    """The versions of Python, numpy, torch and what else the objects' classes come from."""
    names = {"numpy", "torch"}
    for each in objects:
        parts = each.modules() if isinstance(each, nn.Module) else [each]
        names |= {type(part).__module__.split(".")[0] for part in parts}
    installed = importlib.metadata.packages_distributions()
    found = {
        package: importlib.metadata.version(package)
        for name in sorted(names - {"plumbline"})
        for package in installed.get(name, [])[:1]
    }
    return {**found, "python": platform.python_version()}


@cache
def own_code() -> dict[str, str]:
    """The digests of this package's files that a training runs, whatever else was imported."""
    return CodeTree(Path("/nonexistent")).closure(["plumbline.api.fit"]).digests()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    # [elements * size of one]: numpy has no bfloat16.
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class _Described:
    """Describes objects as JSON; each once, so that those which name each other come to an end."""

    def __init__(self) -> None:
        # With the objects themselves: the number of one that is gone is soon another's.
        self._seen: dict[int, tuple[int, object]] = {}

    def describe(self, value: object) -> object:
        """A function, class, module or value."""
        if isinstance(value, _PLAIN):
            return [type(value).__name__, repr(value)]
        if isinstance(value, Tensor | np.ndarray | np.generic | Mapping | list | tuple | set):
            return self.values(value)
        if id(value) in self._seen:
            return ["again", self._seen[id(value)][0]]
        self._seen[id(value)] = len(self._seen), value
        return self._object(value)

    def _object(self, value: object) -> object:
        if isinstance(value, functools.partial):
            called = [self.describe(value.func), self.describe(value.args)]
            return ["partial", *called, self.describe(value.keywords)]
        if isinstance(value, MethodType):
            return ["method", self.describe(value.__func__), self.describe(value.__self__)]
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        if isinstance(value, ModuleType):
            file = getattr(value, "__file__", None)
            if file is None or _is_library(value.__name__) or not file.endswith(".py"):
                return ["module", value.__name__]
            return ["module", value.__name__, digest_tree(Path(file))]
        if isinstance(value, BuiltinFunctionType) or _is_library(getattr(value, "__module__", "")):
            own = self.plain_values(value) if not isinstance(value, type | FunctionType) else []
            kind = type(value)
            return ["library", name, f"{kind.__module__}.{kind.__qualname__}", own]
        if isinstance(value, FunctionType):
            return ["function", self._function(value)]
        if isinstance(value, type):
            bases = [self.describe(base) for base in value.__bases__]
            return ["class", value.__qualname__, bases, self._members(value)]
        return ["object", self.describe(type(value)), self.plain_values(value)]

    def _members(self, kind: type) -> list[object]:
        found: list[object] = []
        for name, member in sorted(vars(kind).items()):
            inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(inner, (FunctionType, *_PLAIN)) and name not in _OF_THE_PLACE:
                found.append([name, self.describe(inner)])
        return found

    def _function(self, function: FunctionType) -> list[object]:
        named = sorted(set(_names(function.__code__)) & function.__globals__.keys())
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        return [
            self._code(function.__code__),
            self.describe(function.__defaults__ or ()),
            self.describe(function.__kwdefaults__ or {}),
            [self.describe(cell) for cell in cells],
            [[name, self.describe(function.__globals__[name])] for name in named],
        ]

    def _code(self, code: CodeType) -> list[object]:
        # Where a function has no docstring, its first constant is None or one that is used.
        constants = [each for each in code.co_consts if not _is_docstring(each, code)]
        inner = [
            self._code(each) if isinstance(each, CodeType) else self.describe(each)
            for each in constants
        ]
        return [code.co_code.hex(), inner, list(code.co_names), list(code.co_varnames)]

    def plain_values(self, value: object) -> list[object]:
        """The settings of an object: those of its attributes that are numbers, texts and such."""
        own = getattr(value, "__dict__", {})
        return [
            [name, self.describe(each)]
            for name, each in sorted(own.items())
            if name != "training" and _is_setting(each)
        ]

    def values(self, value: object) -> object:
        """Numbers, texts and what holds them; of anything else its type."""
        if isinstance(value, _PLAIN):
            return [type(value).__name__, repr(value)]
        if isinstance(value, Tensor):
            digest = hashlib.sha256(_bytes_of(value)).hexdigest()
            return ["tensor", str(value.dtype), list(value.shape), digest]
        if isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            return ["array", str(array.dtype), list(array.shape), digest]
        if isinstance(value, Mapping):
            items = sorted(value.items(), key=lambda item: str(item[0]))
            return ["mapping", [[str(name), self._inner(each)] for name, each in items]]
        if isinstance(value, set | frozenset):
            return ["set", sorted(repr(self._inner(each)) for each in value)]
        if isinstance(value, list | tuple):
            return ["list", [self._inner(each) for each in value]]
        return ["other", f"{type(value).__module__}.{type(value).__qualname__}"]

    def _inner(self, value: object) -> object:
        called = callable(value) or isinstance(value, ModuleType)
        return self.describe(value) if called else self.values(value)


_OF_THE_PLACE = ("__module__", "__qualname__", "__doc__", "__firstlineno__", "__dict__")
"""Members of a class that say where and how it is written."""


def _is_docstring(constant: object, code: CodeType) -> bool:
    return isinstance(constant, str) and bool(code.co_consts) and constant is code.co_consts[0]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a function that names itself before it is bound
        return False


def _is_setting(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_setting(each) for each in value)
    return isinstance(value, _PLAIN)


def _names(code: CodeType) -> Iterator[str]:
    """The global names that code and the functions within it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@cache
def _is_library(module: str) -> bool:
    """Whether a module is installed, or part of Python: its version says what it does."""
    top = module.split(".")[0]
    if top in ("plumbline", "builtins") or top in sys.stdlib_module_names:
        return True
    found = sys.modules.get(module)
    try:
        file = inspect.getsourcefile(found) if found else None
    except TypeError:  # built in, or a notebook
        file = getattr(found, "__file__", None)
    if file is None:
        return False
    places = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return any(Path(file).is_relative_to(place) for place in places if place)
