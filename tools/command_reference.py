"""The page of the docs about the command line, made from the parsers of the subcommands.

`python -m tools.command_reference .` writes `docs/reference/commands.md`; a test compares.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from plumbline.cli.main import COMMANDS, build_parser
from tools.settings_reference import escaped

PLACE = Path("docs/reference/commands.md")
HEAD = """# The command line

<!-- Made by `python -m tools.command_reference` from the modules of the subcommands. -->

`plumbline COMMAND --help` says the same in a terminal, `plumbline completion bash` prints a script
that completes commands and options. A wrong command line, and whatever a command refuses, is one
line that begins with `error:` and exit code 1 ([error messages](../errors.md)).
"""


def page() -> str:
    """The text of the page."""
    table = [f"| [`{name}`](#plumbline-{name}) | {c.summary} |" for name, c in COMMANDS.items()]
    sections = (_section(name) for name in COMMANDS)
    return "\n".join([HEAD, "| command | what it does |", "|---|---|", *table, "", *sections])


def _section(name: str) -> str:
    parser = build_parser(name)
    texts = (inspect.cleandoc(parser.description or ""), parser.epilog or "")
    about = "\n\n".join(_paragraph(part) for part in "\n\n".join(texts).split("\n\n") if part)
    actions = [action for action in parser._actions if action.dest != "help"]
    lines = [f"## `plumbline {name}`", "", about, ""]
    lines += [f"- {': '.join(filter(None, (_call(a), _help(a))))}" for a in actions]
    return "\n".join([*lines, ""] if actions else lines)


def _paragraph(text: str) -> str:
    """A paragraph; one that is set in columns stays as it is."""
    return f"```\n{text}\n```" if re.search(r"\S {2,}\S", text) else escaped(text)


def _call(action: argparse.Action) -> str:
    """How an argument is written."""
    value = " ".join(_values(action))
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings)


def _values(action: argparse.Action) -> Iterator[str]:
    named = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.nargs == 0:
        return
    if isinstance(named, tuple):
        yield from named
    elif action.nargs in ("?", "*"):
        yield f"[{named}{' ...' if action.nargs == '*' else ''}]"
    elif action.nargs == "+":
        yield f"{named} ..."
    else:
        yield named


def _help(action: argparse.Action) -> str:
    told = (action.help or "") % {**vars(action), "prog": "plumbline"}
    choices = [f"`{choice}`" for choice in sorted(action.choices or ())]
    listed = f"one of {', '.join(choices)}" if choices else ""
    return "; ".join(filter(None, (escaped(told), listed)))


def main(root: Path) -> None:
    """Write the page below a folder."""
    (root / PLACE).parent.mkdir(parents=True, exist_ok=True)
    (root / PLACE).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
