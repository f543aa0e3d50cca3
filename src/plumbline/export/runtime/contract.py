"""What must stand in the JSON files of a bundle: checked once, before anything relies on it."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from types import EllipsisType
from typing import TypeAlias, TypedDict

from .guard import BundleError

Shape: TypeAlias = (
    "type | range | Set[str] | Sequence[Shape] | Fields | Mapping[EllipsisType, Shape] | None"
)
"""str or bool; float: a finite number; a range: a whole number in it; a set: one of these words;
[shape]: a list of it; (shape, ...): any of them; None: null; a dict: an object that has these keys
and may have more; {...: shape}: an object of it, not empty."""

Fields: TypeAlias = "Mapping[str, Shape]"
"""The shape of an object with known keys."""

COUNT = range(1, 1 << 40)
ID = range(1 << 40)
"""Of a token."""
FILE = str
"""A name in digests.json."""


class SpecialIds(TypedDict):
    """What `SPECIAL_IDS` describes."""

    bos: int
    eos: int


class Limits(TypedDict):
    """What `LIMITS` describes."""

    max_bytes: int
    max_image_pixels: int
    max_audio_s: float
    max_text_chars: int
    max_new_tokens: int


class Contract(TypedDict):
    """What `COMMON` describes: of contract.json, whatever the task."""

    contract_version: int
    threads: int
    limits: Limits
    formats: dict[str, dict[str, str | list[str]]]
    """Format -> part -> its file; `external` -> the files that these refer to."""
    default_format: str


SPECIAL_IDS: Fields = {"bos": ID, "eos": ID}

LIMITS: Fields = {
    "max_bytes": COUNT,
    "max_image_pixels": COUNT,
    "max_audio_s": float,
    "max_text_chars": COUNT,
    "max_new_tokens": COUNT,
}

COMMON: Fields = {
    "contract_version": COUNT,
    "threads": COUNT,
    "limits": LIMITS,
    "formats": {...: {...: (FILE, [FILE])}},
    "default_format": str,
}

SELFTEST: Fields = {
    "tolerance": float,
    "input_tolerance": float,
    "answers": [{"name": str, "request": {...: object}, "inputs": dict, "answer": dict}],
    "preprocessing": [{"name": str, "request": {...: object}, "inputs": dict}],
}


def check_shape(value: object, shape: Shape, name: str, place: str = "") -> None:
    """Compare a value out of JSON with what it has to be.

    Raises:
        BundleError: it is something else; the text names file, key and what is expected.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        for key, inner in _wanted(shape, value):
            if key not in value:
                raise BundleError(f"{name}: {place}{key} is missing; copy the whole bundle")
            check_shape(value[key], inner, name, f"{place}{key}.")
        fits = bool(value) or not shape
    elif isinstance(shape, list) and isinstance(value, list):
        for number, entry in enumerate(value):
            check_shape(entry, shape[0], name, f"{place}{number}.")
        fits = True
    elif isinstance(shape, tuple):
        fits = any(_fits(value, inner) for inner in shape)
    else:
        fits = _fits(value, shape)
    if not fits:
        # Cut: somebody else wrote the file, and the value may be of any length.
        said = repr(value)[:60]
        text = f"{place.rstrip('.') or 'the whole'} = {said}: expected {_words(shape)}"
        raise BundleError(f"{name}: {text}; copy the whole bundle")


def _wanted(
    shape: "Fields | Mapping[EllipsisType, Shape]", value: Mapping[str, object]
) -> Iterator[tuple[str, Shape]]:
    """The keys that an object has to have, each with its shape."""
    for key, inner in shape.items():
        if isinstance(key, str):
            yield key, inner
        else:
            yield from ((name, inner) for name in value)


def _fits(value: object, shape: Shape) -> bool:
    """Whether a value is what a shape says; of lists and objects in a choice, all that is in it."""
    if isinstance(shape, range):
        # True is an int to Python, and 1 with it.
        return type(value) is int and value in shape
    if isinstance(shape, set):
        return isinstance(value, str) and value in shape
    if isinstance(shape, (dict, list)):
        try:
            check_shape(value, shape, "") if isinstance(value, type(shape)) else None
        except BundleError:
            return False
        return isinstance(value, type(shape))
    if shape is None:
        return value is None
    if shape is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return math.isfinite(value)
    return isinstance(shape, type) and isinstance(value, shape)


def _words(shape: Shape) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_words, shape))
    if isinstance(shape, range):
        return f"a whole number from {shape.start}"
    if isinstance(shape, set):
        return " or ".join(sorted(shape))
    if isinstance(shape, list) or shape is list:
        return "a list"
    if isinstance(shape, dict) or shape is dict:
        return "an object"
    words: dict[object, str] = {None: "null", float: "a number", bool: "true or false"}
    return words.get(shape, "a text")


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Turn whatever a file leads to that passed the check, and is wrong, into one line on it.

    Raises:
        BundleError: in place of any other error.
    """
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise BundleError(f"{name}: cannot be used ({type(error).__name__}: {text})") from error


def section(contract: Mapping[str, object], *keys: str) -> object:
    """What stands at a path of a contract that nobody checked yet; None: nothing."""
    found: object = contract
    for key in keys:
        # Whatever stands there, this only looks: the shape will refuse it.
        found = found.get(key) if isinstance(found, dict) else None
    return found
