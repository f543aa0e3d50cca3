"""Run what changed of the pipeline, then print the headline figures.

It is `dvc repro`, which works as ever, with what belongs around it: results of this machine that
are in the run cache are found although dvc.lock has another machine's, what a killed dvc left is
mended before, and a line says where results differ from the committed ones.
"""

import argparse
import sys
from pathlib import Path

from plumbline.cli import figures
from plumbline.plugins import load_plugins
from plumbline.reproduction.own import describe
from plumbline.running.pipeline import check_project, prepare_run, run_dvc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what dvc repro takes."""
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="of dvc repro, such as finetune"
    )


def run(options: argparse.Namespace) -> None:
    """Run the pipeline.

    Raises:
        ConfigError: the working folder is no project of DVC.
        SystemExit: with the code of dvc.
    """
    root = Path.cwd()
    check_project(root)
    prepare_run(root)
    if code := run_dvc(["repro", *options.arguments]):
        raise SystemExit(code)
    load_plugins(root / "plugins")
    figures.run(options)
    if line := describe(root):
        print(line, file=sys.stderr)
