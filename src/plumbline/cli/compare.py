"""Compare versions: settings that differ, and figures side by side with their intervals.

A version is a commit, branch or tag of Git, an experiment of DVC by its name, or `workspace`, the
files as they are: `plumbline compare HEAD workspace` is what `plumbline compare` alone does.
Intervals are of 95 %; those that overlap do not prove that nothing changed. They stand in the
outputs of the evaluation, so they are shown where the cache of DVC on this machine has these.
`--html FILE` writes a page of up to five versions, with the curves of their trainings overlaid.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.files import atomic_write
from plumbline.running.pipeline import check_project
from plumbline.running.versions import (
    WORKSPACE,
    Version,
    join_settings,
    pair_figures,
    read_curves,
    read_version,
    say_figure,
)
from plumbline.text import one_line

SHOWN_CHARS = 60
"""Of a value of a setting."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take names."""
    words = f"default: HEAD and {WORKSPACE}; beside one alone: {WORKSPACE}"
    parser.add_argument("versions", nargs="*", metavar="version", help=words)
    parser.add_argument("--all", action="store_true", help="every figure, not the first ones alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, with curves")


def run(options: argparse.Namespace) -> None:
    """Print both, or write a page of all.

    Raises:
        ConfigError: there is no such version, or there are more than can be shown.
    """
    root = Path.cwd()
    check_project(root)
    names = list(options.versions) or ["HEAD"]
    names += [WORKSPACE] if len(names) == 1 else []
    _check_count(names, page=options.html is not None)
    versions = [read_version(root, name) for name in names]
    if options.html:
        _write_page(root, versions, options)
        return
    settings = join_settings(versions)
    figures = pair_figures(*versions, every=options.all)
    if options.json:
        differing = [(key, *values) for key, values in settings]
        named = {"versions": names, "settings": differing, "figures": figures}
        print(json.dumps(named, default=str))
        return
    rows = [("settings that differ", *names, "")]
    rows += [(key, *map(_short, values), "") for key, values in settings]
    rows += [("figures", *names, ""), *map(say_figure, figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        print(one_line("  ".join([*cells, row[3]]).rstrip()))


def _check_count(names: Sequence[str], *, page: bool) -> None:
    from plumbline.report.comparison import MOST

    most = MOST if page else 2
    if len(names) > most:
        remedy = "name fewer" if page else f"--html FILE shows up to {MOST}"
        raise ConfigError(f"{len(names)} versions: {most} can be shown; {remedy}")


def _write_page(root: Path, versions: Sequence[Version], options: argparse.Namespace) -> None:
    from plumbline.report.comparison import Compared, Figure, render_comparison

    page = render_comparison(
        Compared(
            names=[version.name for version in versions],
            settings=join_settings(versions),
            figures=[Figure(**pair) for pair in pair_figures(*versions, every=options.all)],
            curves=[read_curves(root, version) for version in versions],
        )
    )
    atomic_write(options.html, page)
    print(one_line(f"{options.html}: {len(versions)} versions, {len(page) / 1e6:.1f} MB"))


def _short(value: object) -> str:
    text = "not there" if value == "nothing" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
