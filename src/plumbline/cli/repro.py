"""Run what changed of the pipeline, then print the headline figures.

It is `dvc repro`, which works as ever, with what belongs around it: results of this machine that
are in the run cache are found although dvc.lock has another machine's, what a killed dvc left is
mended before, and a line says where results differ from the committed ones.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from plumbline.cli import figures, heal
from plumbline.errors import ConfigError
from plumbline.plugins import load_plugins
from plumbline.reproduction.lock import LOCK
from plumbline.reproduction.own import adopt, describe


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
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root}: no dvc.yaml here; plumbline init makes a project")
    if (root / LOCK).is_file() and (adopted := adopt(root)):
        what = "what this machine made before is used"
        print(f"{LOCK}: {', '.join(adopted)}: {what}", file=sys.stderr)
    heal.run(options)
    if code := _run_dvc(["repro", *options.arguments]):
        raise SystemExit(code)
    load_plugins(root / "plugins")
    figures.run(options)
    if line := describe(root):
        print(line, file=sys.stderr)


def _run_dvc(arguments: list[str]) -> int:
    """Run dvc to its end, also when this process is told to stop: a training saves its state."""
    process = subprocess.Popen(["dvc", *arguments])

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # dvc was told by the terminal as well
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
