"""Mend what a killed dvc left in its run cache; `plumbline repro` and sweeps do it first."""

import argparse
from pathlib import Path

from plumbline.heal import heal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def run(options: argparse.Namespace) -> None:
    """Heal the project in the working folder, and say what was removed."""
    for path in heal(Path()):
        print(f"removed {path}: what a killed dvc left of an entry of its run cache")
