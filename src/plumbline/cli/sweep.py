"""Search settings through the DVC queue: `plumbline sweep vqa_lr`.

A sweep is a file `sweeps/<name>.yaml`. The same command goes on with a sweep that was stopped or
killed; a finished one runs nothing. The table, the plot and what Optuna knows lie in
`.plumbline/sweeps/<name>/`, the best point becomes `conf/experiment/<name>_best.yaml`.
"""

import argparse
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.sweep.config import load_sweep
from plumbline.sweep.search import Search, check_sweep, sweep_folder
from plumbline.sweep.session import run_sweep, show
from plumbline.sweep.study import bound_to


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the sweep, and what differs from its file."""
    parser.add_argument("name", help="of sweeps/<name>.yaml")
    parser.add_argument("--jobs", type=_positive, help="runs at a time, in place of the file's")
    parser.add_argument("--points", type=_positive, help="points in all, in place of the file's")
    parser.add_argument("--retry-failed", action="store_true", help="run failed points again")
    parser.add_argument("--new", action="store_true", help="begin anew; the former study is kept")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="only show what there is by now")
    what.add_argument("--check", action="store_true", help="only check the settings")


def run(options: argparse.Namespace) -> None:
    """Run, continue or show a sweep."""
    root, name = Path.cwd(), options.name
    config = load_sweep(root, name)
    chosen = {field: getattr(options, field) for field in ("jobs", "points")}
    config = config.model_copy(update={field: v for field, v in chosen.items() if v is not None})
    try:
        config.check_slots()
    except ValueError as error:
        raise ConfigError(f"--jobs: {error}") from None
    if options.table:
        show(Search(root, name, config, bound_to(sweep_folder(root, name), config)))
        return
    check_sweep(root, config)
    if not options.check:
        run_sweep(root, name, config, retry_failed=options.retry_failed, new=options.new)
