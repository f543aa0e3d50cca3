"""Compare two versions: settings that differ, and figures side by side with their intervals.

A version is a commit, branch or tag of Git, an experiment of DVC by its name, or `workspace`, the
files as they are: `plumbline compare HEAD workspace` is what `plumbline compare` alone does.
Intervals are of 95 %; those that overlap do not prove that nothing changed. They stand in the
outputs of the evaluation, so they are shown where the cache of DVC on this machine has these.
"""

import argparse
import json
from pathlib import Path

from plumbline.running.pipeline import check_project
from plumbline.running.versions import (
    WORKSPACE,
    differing_settings,
    pair_figures,
    read_version,
    say_figure,
)
from plumbline.text import one_line

SHOWN_CHARS = 60
"""Of a value of a setting."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take two names."""
    parser.add_argument("one", nargs="?", default="HEAD", help="default: HEAD")
    parser.add_argument("other", nargs="?", default=WORKSPACE, help=f"default: {WORKSPACE}")
    parser.add_argument("--all", action="store_true", help="every figure, not the first ones alone")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Print both."""
    root = Path.cwd()
    check_project(root)
    one, other = (read_version(root, name) for name in (options.one, options.other))
    settings, figures = differing_settings(one, other), pair_figures(one, other, every=options.all)
    if options.json:
        named = {"versions": [one.name, other.name], "settings": settings, "figures": figures}
        print(json.dumps(named, default=str))
        return
    rows = [("settings that differ", one.name, other.name, "")]
    rows += [(key, _short(first), _short(second), "") for key, first, second in settings]
    rows += [("figures", one.name, other.name, ""), *map(say_figure, figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        print(one_line("  ".join([*cells, row[3]]).rstrip()))


def _short(value: object) -> str:
    text = "not there" if value == "nothing" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
