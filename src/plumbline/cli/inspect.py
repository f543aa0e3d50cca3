"""Look at a training before it runs: `plumbline inspect vqa overfit --samples 8 seed=1`."""

import argparse
import json
import sys

from plumbline.config import fix_threads
from plumbline.inspection.commands import COMMANDS, parse_rest
from plumbline.inspection.result import CLOSE, OPEN
from plumbline.registry import load_attribute
from plumbline.text import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the training, what to look at, and what that takes."""
    listed = "\n".join(f"  {name:12}{command.help}" for name, command in COMMANDS.items())
    parser.epilog = f"what:\n{listed}"
    parser.add_argument("name", help="a task or an alignment of params.yaml, such as vqa")
    parser.add_argument("what", choices=list(COMMANDS), metavar="what")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options and overrides: key=value")


def run(options: argparse.Namespace) -> None:
    """Print what was asked for."""
    asked = parse_rest(options.name, options.what, options.rest)
    from plumbline.inspection.target import open_target, read_call

    call = read_call(asked.name, asked.overrides)
    fix_threads(call.config.threads)
    report = load_attribute(COMMANDS[options.what].place)(open_target(call), asked)
    print(json.dumps(report.data) if asked.json else _in_colour(shown(report.text)))


def _in_colour(text: str) -> str:
    """What is marked, in colour on a terminal; elsewhere the marks stay."""
    if not sys.stdout.isatty():
        return text
    return text.replace(OPEN, "\x1b[1;32m").replace(CLOSE, "\x1b[0m")
