"""Print the headline figures of everything that is selected in params.yaml.

It also draws how long the stages took here, beside the report (`report/index.html` shows it).
"""

import argparse
import sys
from pathlib import Path

from plumbline.config import compose_yaml
from plumbline.errors import OutputError
from plumbline.names import GROUPS
from plumbline.params import entries_of
from plumbline.report.headline import headlines, summary
from plumbline.report.selection import Selection
from plumbline.report.times import write_times
from plumbline.running.checks import stage_outputs
from plumbline.text import one_line, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def run(options: argparse.Namespace) -> None:
    """Print them as a table."""
    root = Path.cwd()
    params = compose_yaml(root, "params", [])
    selection = Selection.from_params(*(entries_of(params, group) for group in GROUPS))
    print(shown(summary(headlines(selection))))
    if (root / "dvc.yaml").is_file():
        try:
            write_times(root, list(stage_outputs(root, params)))
        except OutputError as error:  # figures can be read where nothing can be written
            print(f"stage times: {one_line(str(error))}", file=sys.stderr)
