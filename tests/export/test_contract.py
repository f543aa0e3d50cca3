"""Damaged JSON files of a bundle: whatever is missing or odd in them is said in one line."""

import copy as copies
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.export.runtime.contract import check_shape
from plumbline.export.runtime.files import BundleError
from plumbline.export.runtime.guard import check_code
from plumbline.export.runtime.model import selftest
from plumbline.files import dump_json, read_json, write_digests
from tests.export.opening import model_of
from tests.export.test_tasks import BOTH_FORMATS

DELETE = object()
ODD: list[Any] = [None, "x", -1, [], {}]
FOR_READERS = {"decode", "layout", "dtype", "decoding", "vocab_size", "pad"}
"""Keys of a contract that describe: no script reads them."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of a JSON value, and of the first entry of every list."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in entries:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """A copy in which one place is missing or another value."""
    out = copies.deepcopy(value)
    inner = out
    for key in path[:-1]:
        inner = inner[key]
    if odd is DELETE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = copies.deepcopy(odd)
    return out


def fault(folder: Path) -> str:
    """What a bundle says of itself; empty: that it is well."""
    try:
        check_code(folder)
        selftest(model_of(folder))
    except BundleError as error:
        return str(error)
    return ""


@pytest.mark.no_cover  # a bundle's own code, thousands of times
@pytest.mark.parametrize(
    ("kind", "name"),
    [("vlm", "selftest/selftest.json"), *((k, "contract.json") for k in ("vlm", *BOTH_FORMATS))],
)
def test_every_key_that_is_missing_or_odd_is_one_line(
    bundle: Path, bundle_of: Callable[..., Path], tmp_path: Path, kind: str, name: str
) -> None:
    made = bundle if kind == "vlm" else bundle_of(kind)
    copy = Path(shutil.copytree(made, tmp_path / "bundle"))
    whole = read_json(copy / name)
    assert fault(copy) == ""
    silent = []
    for number, path in enumerate(places(whole)):
        for odd in (DELETE, ODD[number % len(ODD)]):
            (copy / name).write_text(json.dumps(changed(whole, path, odd)), encoding="utf-8")
            write_digests(copy)
            said = fault(copy)
            assert "\n" not in said
            if not said and odd is DELETE and not FOR_READERS & set(path):
                silent.append(path)
    # An entry of a list may be missing, and a format that nobody asks for.
    assert [p for p in silent if isinstance(p[-1], str) and "torchscript" not in p] == []


@pytest.mark.parametrize("content", ["null", "[]", "3", '"x"', "{}", "", "[" * 99_999, "{'a': 1}"])
@pytest.mark.parametrize("name", ["contract.json", "selftest/selftest.json"])
def test_a_file_of_another_kind_is_one_line(
    bundle: Path, tmp_path: Path, name: str, content: str
) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    (mine / name).write_text(content, encoding="utf-8")
    write_digests(mine)
    assert fault(mine).startswith(f"{name}: ")
    done = subprocess.run(
        [sys.executable, "inference.py", "--selftest"],
        cwd=mine,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {fault(mine)}\n"


def test_every_name_that_the_digests_lack_or_have_wrongly_is_one_line(
    bundle: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    whole = read_json(mine / "digests.json")
    loaded = {"contract.json", "decoder.onnx", "vision.onnx", "tokenizer.json", "inference.py"}
    for name in whole:
        for odd in (DELETE, None, "x", "0" * 64, 3):
            value = changed(whole, (name,), odd)
            (mine / "digests.json").write_text(dump_json(value), encoding="utf-8")
            said = fault(mine)
            if odd is not DELETE and name != "server.json":
                assert name in said
            if name in loaded or name.startswith(("runtime/", "selftest/")):
                assert name in said


@pytest.mark.parametrize("odd", [DELETE, None, "x", -1, [], True, 1e400])
def test_every_key_of_the_server_that_is_missing_or_odd_is_one_line(
    bundle: Path, tmp_path: Path, odd: Any
) -> None:
    mine = Path(shutil.copytree(bundle, tmp_path / "mine"))
    whole = read_json(mine / "server.json")
    for name in whole:
        value = changed(whole, (name,), odd)
        (mine / "server.json").write_text(json.dumps(value), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "server.py", "--host", "256.0.0.1"],  # no keys are good enough for it
            cwd=mine,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        if name != "host" or odd != "x":
            assert done.stderr.startswith("error: server.json: ")
            assert name in done.stderr


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        ({}, {"a": str}, "x.json: a is missing; copy the whole bundle"),
        (
            {"a": {"b": None}},
            {"a": {"b": range(1, 9)}},
            "a.b = None: expected a whole",
        ),
        ({"a": True}, {"a": range(9)}, "a = True: expected a whole number from 0"),
        ({"a": [1, "x"]}, {"a": [float]}, "a.1 = 'x': expected a number"),
        ({"a": float("nan")}, {"a": float}, "a = nan: expected a number"),
        ({"a": {}}, {"a": {...: str}}, "a = {}: expected an object"),
        ({"a": {"k": 3}}, {"a": {...: str}}, "a.k = 3: expected a text"),
        ({"a": "z"}, {"a": {"x", "y"}}, "a = 'z': expected x or y"),
        ({"a": 0}, {"a": (range(1, 9), None)}, "a = 0: expected a whole number from 1 or null"),
        ([], {"a": str}, r"the whole = \[\]: expected an object"),
        ({"a": "\x1b"}, {"a": {"x"}}, r"a = '\\x1b': expected x"),
    ],
)
def test_a_value_is_named_with_what_was_expected(value: Any, shape: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check_shape(value, shape, "x.json")
