"""Ask the model of this bundle: a request on the command line, one line of JSON as the answer.

Everything that varies from model to model stands in contract.json; every file that is loaded is
first compared with its SHA-256 in digests.json. `--help` names what this model takes.

    python inference.py --selftest
"""

# Nothing may be imported from the bundle's folder before it is checked, by any way to start Python:
# `sys` and `os` are part of the interpreter, and `guard.py` is run by its path.
import sys

sys.dont_write_bytecode = True  # the bundle stays as it was exported
import os

FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or os.getcwd()) != FOLDER]
guard: dict = {"__name__": "guard"}  # type: ignore[type-arg]
with open(os.path.join(FOLDER, "runtime", "guard.py"), "rb") as code:
    exec(compile(code.read(), code.name, "exec"), guard)
guard["enter"](guard["Path"](FOLDER), as_script=__name__ == "__main__")

import argparse
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from runtime.files import BundleError, Files, InputError, printable  # type: ignore[import-not-found]
from runtime.model import Model, find_task, read_contract, selftest  # type: ignore[import-not-found]


class Flag(TypedDict, total=False):
    """How `ArgumentParser.add_argument` makes a flag."""

    action: str
    type: Callable[[str], object]
    metavar: str


TYPES: dict[str, Flag] = {
    "file": {"type": Path, "metavar": "FILE"},
    "files": {"action": "append", "type": Path, "metavar": "FILE"},
    "text": {"metavar": "TEXT"},
    "texts": {"action": "append", "metavar": "TEXT"},
    "turns": {"type": json.loads, "metavar": "JSON"},
    "integer": {"type": int, "metavar": "N"},
    "number": {"type": float, "metavar": "X"},
    "flag": {"action": "store_true"},
}
"""Type of a field -> how it is given on the command line."""


def read_file(path: Path) -> bytes:
    """The bytes of a file that a request names.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def run_batch(model: Model, requests: Path) -> int:
    """Answer JSON lines of requests; files in them are relative to the file of the lines.

    A request that cannot be answered gives a line with `error`, and the exit code 1.
    """
    failed = 0
    for line in read_file(requests).splitlines():
        try:
            request = json.loads(line)
            for name in request.keys() & model.task.fields.keys():
                if model.task.fields[name] == "file":
                    request[name] = read_file(requests.parent / request[name])
                elif model.task.fields[name] == "files":
                    request[name] = [read_file(requests.parent / each) for each in request[name]]
            result = model.predict(request)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            result = {"error": f"no request: {type(error).__name__}"}
        except InputError as error:
            result = {"error": str(error)}
        failed += "error" in result
        print(json.dumps(result, allow_nan=False), flush=True)
    return 1 if failed else 0


def _parse_arguments(
    arguments: Sequence[str], fields: dict[str, str], formats: Iterable[str]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask the model of this bundle.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--batch", type=Path, metavar="FILE", help="answer a file of JSON lines")
    what.add_argument("--selftest", action="store_true", help="compare with what was exported")
    # A sign of percent would be filled in by the parser.
    parser.add_argument("--format", help=printable(", ".join(formats)).replace("%", "%%"))
    request = parser.add_argument_group("request")
    for name, kind in fields.items():
        request.add_argument(f"--{name.replace('_', '-')}", dest=name, **TYPES[kind])
    return parser.parse_args(arguments)


def _read(value: object) -> object:
    """The value of a flag, what it names in place of names of files."""
    if isinstance(value, list):
        return [_read(each) for each in value]
    return read_file(value) if isinstance(value, Path) else value


def _answer(model: Model, parsed: argparse.Namespace) -> dict[str, object]:
    given = {name: getattr(parsed, name) for name in model.task.fields}
    request = {
        name: _read(value)
        for name, value in given.items()
        if value is not None and value is not False
    }
    answer: dict[str, object] = model.predict(request)
    return answer


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    warnings.simplefilter("ignore")  # Pillow's, on images that are refused with our own error
    try:
        task_class = find_task()
        contract = read_contract(Files(Path(FOLDER)), task_class)
        fields = task_class.fields_of(contract)
        parsed = _parse_arguments(arguments, fields, contract["formats"])
        model = Model(Path(FOLDER), format=parsed.format, task_class=task_class)
        if parsed.batch:
            return run_batch(model, parsed.batch)
        result = selftest(model) if parsed.selftest else _answer(model, parsed)
    except (BundleError, InputError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except Exception as error:  # the edge of the process: whatever a damaged bundle leads to
        text = printable(" ".join(str(error).split())[:200])
        print(f"error: the bundle is damaged ({type(error).__name__}: {text})", file=sys.stderr)
        return 1
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
