"""The command `plumbline`: which subcommands there are, and how one is called.

A subcommand is a module here whose docstring is its `--help`, with `add_arguments(parser)` and
`run(options)`. It is imported when it is called, so the others cost it nothing.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn, Protocol, cast

from typing_extensions import override

from plumbline.errors import ConfigError
from plumbline.imports import leave
from plumbline.plugins import load_plugins
from plumbline.stage import run_stage
from plumbline.version import __version__


class Module(Protocol):
    """What a module of a subcommand has."""

    __doc__: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    summary: str
    """Its line in `plumbline --help`."""
    plugins: bool = False
    """Whether the project's plugins are loaded first: what they register can be named."""
    file: str = ""
    """Its module, where that cannot have the name of the subcommand."""
    leaves: bool = False
    """Whether its process ends by `leave`: it has written nothing but its answer."""

    def module(self, name: str) -> Module:
        """Import its module."""
        return cast(Module, importlib.import_module(f"plumbline.cli.{self.file or name}"))


COMMANDS = {
    "init": Command("begin a project: the DAG, settings and scripts"),
    "upgrade": Command("show what another version of plumbline changes in a project's files"),
    "import": Command("settings for data of your own", plugins=True, file="import_data"),
    "params": Command("compose params.yaml from conf/", plugins=True),
    "run": Command("check every setting, then run what changed", plugins=True),
    "repro": Command("run what changed, then print the headline figures"),
    "status": Command("where each stage is: current, running, to run and why", plugins=True),
    "data": Command("what became of a dataset's rows, and the rejected ones"),
    "compare": Command("settings and figures of two versions, side by side"),
    "figures": Command("print the headline figures", plugins=True),
    "try": Command("ask a task's bundle in a browser", file="try_bundle"),
    "register": Command("log and register a task's bundle as a model of MLflow"),
    "archive": Command("write a task's bundle as an archive for TorchServe"),
    "predict": Command("ask a trained model", plugins=True, leaves=True),
    "evaluate": Command("measure a stored model on a dataset", plugins=True),
    "inspect": Command("look at a training before it runs", plugins=True),
    "sweep": Command("search settings through the DVC queue", plugins=True),
    "verify": Command("prove that the commit can be reproduced"),
    "gc": Command("list or remove caches, old training states and experiments"),
    "heal": Command("mend what a killed dvc left in its run cache"),
    "completion": Command("print a script that completes commands in a shell"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said, with the nearest right word."""

    @override
    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: with what argparse says of it.
        """
        wrong, _, listed = message.partition("(choose from")
        known = re.findall(r"[\w-]+", listed) or list(self._option_string_actions)
        words = re.findall(r"-*[A-Za-z][\w-]*", wrong)[-1:]
        word = words[0] if words else ""
        other_case = [name for name in known if name.lower() == word.lower()]
        close = other_case or get_close_matches(word, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"{self.prog} --help lists what there is"
        raise ConfigError(f"{self.prog}: {wrong.strip()}; {hint}")


def build_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one subcommand."""
    module = COMMANDS[name].module(name)
    parser = Parser(
        prog=f"plumbline {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def call(arguments: Sequence[str]) -> None:
    """Run a subcommand.

    Raises:
        PlumblineError: what it refuses.
        SystemExit: help was asked for, or the command line is wrong.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name == "--version":
        print(f"plumbline {__version__}")
        return
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "plumbline --help lists what there is"
        raise ConfigError(f"{name}: no such command; {hint}")
    if COMMANDS[name].plugins:
        load_plugins(Path.cwd() / "plugins")
    parser = build_parser(name)
    try:  # options may stand between positional arguments, but not where one takes the rest
        options = parser.parse_intermixed_args(rest)
    except TypeError:
        options = parser.parse_args(rest)
    COMMANDS[name].module(name).run(options)


def _usage() -> str:
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        (
            "usage: plumbline COMMAND [argument ...]",
            "",
            "Reproducible pipelines for multimodal models; `plumbline COMMAND --help` says more.",
            "",
            *lines,
        )
    )


def main() -> None:
    """Run the command line: exit 1 and one line for an error of ours."""
    run_stage(call)
    if (command := COMMANDS.get("".join(sys.argv[1:2]))) and command.leaves:
        leave()
