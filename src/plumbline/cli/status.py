"""Say where each stage is: current, running, or to run and why; and how its last run ended.

An edit in conf/ counts once `plumbline params` has composed params.yaml, as for every stage.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from plumbline.params import read_params
from plumbline.running.pipeline import check_project
from plumbline.running.status import StageState, read_states
from plumbline.stage import count
from plumbline.text import one_line
from plumbline.tracking.progress import duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing but the form."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Print a line a stage."""
    root = Path.cwd()
    check_project(root)
    states = read_states(root, read_params(root))
    if options.json:
        print(json.dumps([asdict(state) for state in states], default=str))
        return
    width = max(len(state.name) for state in states)
    for state in states:
        cells = (f"{state.name:<{width}}  {state.state:<7}", state.why, _last_run(state))
        print(one_line("  ".join(filter(None, cells))))
    waiting = sum(state.state == "to run" for state in states)
    print(f"{count(waiting, 'stage')} to run: plumbline run" if waiting else "all is current")


def _last_run(state: StageState) -> str:
    if state.last is None or state.last.status == "running":
        return ""
    began = state.last.pipeline  # 20260102-131415-repro-4711, in UTC
    when = f"{began[:4]}-{began[4:6]}-{began[6:8]} {began[9:11]}:{began[11:13]} UTC"
    took = "" if state.last.seconds is None else f", {duration(state.last.seconds)}"
    error = f": {state.last.error}" if state.last.error else ""
    return f"({state.last.status} in the run of {when}{took}{error})"
