"""`inspect overfit` before a training: a broken set-up ends in seconds, not after its epochs.

In a process of its own, so that the training starts from the same state with and without it, and an
edit of the inspection reruns no training. No torch here.
"""

import logging
import sys
from collections.abc import Sequence

from plumbline.errors import TrainingError
from plumbline.training.config import OverfitConfig
from plumbline.training.launch import end_with_parent
from plumbline.waiting import run_command

logger = logging.getLogger(__name__)


def check_overfit(name: str, overrides: Sequence[str], config: OverfitConfig) -> None:
    """Learn one batch by heart, and throw what was learnt away.

    Args:
        name: of the training, such as `tasks.vqa`.
        overrides: of params.yaml, as the stage was given them.
        config: how many samples and steps, and how far the loss must fall.

    Raises:
        TrainingError: it is not learnt; the text says what to look at.
    """
    command = [sys.executable, "-m", "plumbline", "inspect", name, "overfit", *overrides]
    for option, value in config.model_dump().items():
        command += [f"--{option}", str(value)]
    done = run_command(command, preexec_fn=end_with_parent)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no word of why"]
        told = [line for line in lines if line.startswith("error: ")] or lines
        raise TrainingError(
            f"overfit_check: {told[-1].removeprefix('error: ')} (trainer.overfit_check: null "
            "leaves the check out)"
        )
    logger.info("overfit_check: %s", done.stdout.strip())
