"""Runs DVC, with what belongs around it.

Results of this machine that are in the run cache are found although dvc.lock has another machine's,
and what a killed dvc left is mended before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from plumbline.errors import ConfigError
from plumbline.heal import heal
from plumbline.reproduction.lock import LOCK
from plumbline.reproduction.own import adopt, forget_lost
from plumbline.text import shown


def check_project(root: Path) -> None:
    """Refuse a folder that is no project.

    Raises:
        ConfigError: it has no dvc.yaml.
    """
    if not (root / "dvc.yaml").is_file():
        raise ConfigError(f"{root}: no dvc.yaml here; plumbline init makes a project")


def prepare_run(root: Path, *, experiment: bool = False) -> None:
    """Take this machine's own results for those of dvc.lock, and mend what a killed dvc left.

    Args:
        root: the project.
        experiment: whether DVC is going to write dvc.lock anew, with other settings.
    """
    if (root / LOCK).is_file() and (adopted := adopt(root)):
        what = "what this machine made before is used"
        print(f"{LOCK}: {', '.join(adopted)}: {what}", file=sys.stderr)
    if experiment and (root / LOCK).is_file():
        forget_lost(root)
    for path in heal(root):
        print(f"removed {path}: what a killed dvc left of an entry of its run cache")


def run_dvc(arguments: Sequence[str], hear: Callable[[str], None] | None = None) -> int:
    """Run dvc to its end, also when this process is told to stop: a training saves its state.

    Args:
        arguments: of dvc.
        hear: is told every line that dvc and its stages print, which is then printed here.

    Returns:
        The code of dvc.
    """
    # Unbuffered: a line is heard when it is said, not when the run is over.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        ["dvc", *arguments],
        stdout=subprocess.PIPE if hear else None,
        env=environment if hear else None,
        encoding="utf-8",
        errors="replace",
    )
    with _stops_passed_on(process):
        while True:
            try:
                if hear and process.stdout:
                    for line in process.stdout:
                        print(shown(line), end="", flush=True)
                        hear(line.rstrip("\n"))
                return process.wait()
            except KeyboardInterrupt:  # dvc was told by the terminal as well
                continue


@contextmanager
def _stops_passed_on(process: "subprocess.Popen[str]") -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
