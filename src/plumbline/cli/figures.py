"""Print the headline figures of everything that is selected in params.yaml."""

import argparse
from pathlib import Path

from plumbline.config import compose_yaml
from plumbline.names import GROUPS
from plumbline.params import entries_of
from plumbline.report.headline import headlines, summary
from plumbline.report.selection import Selection
from plumbline.text import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def run(options: argparse.Namespace) -> None:
    """Print them as a table."""
    params = compose_yaml(Path.cwd(), "params", [])
    selection = Selection.from_params(*(entries_of(params, group) for group in GROUPS))
    print(shown(summary(headlines(selection))))
