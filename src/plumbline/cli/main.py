"""The command `plumbline`: which subcommands there are, and how one is called.

A subcommand is a module here whose docstring is its `--help`, with `add_arguments(parser)` and
`run(options)`. It is imported when it is called, so the others cost it nothing.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, cast

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
    leaves: bool = False
    """Whether its process ends by `leave`: it has written nothing but its answer."""

    def module(self, name: str) -> Module:
        """Import its module."""
        return cast(Module, importlib.import_module(f"plumbline.cli.{name}"))


COMMANDS = {
    "init": Command("begin a project: the DAG, settings and scripts"),
    "upgrade": Command("show what another version of plumbline changes in a project's files"),
    "params": Command("compose params.yaml from conf/", plugins=True),
    "repro": Command("run what changed, then print the headline figures"),
    "figures": Command("print the headline figures", plugins=True),
    "predict": Command("ask a trained model", plugins=True, leaves=True),
    "evaluate": Command("measure a stored model on a dataset", plugins=True),
    "inspect": Command("look at a training before it runs", plugins=True),
    "sweep": Command("search settings through the DVC queue", plugins=True),
    "verify": Command("prove that the commit can be reproduced"),
    "gc": Command("list or remove caches, old training states and experiments"),
    "heal": Command("mend what a killed dvc left in its run cache"),
    "completion": Command("print a script that completes commands in a shell"),
}


def build_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one subcommand."""
    module = COMMANDS[name].module(name)
    parser = argparse.ArgumentParser(
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
