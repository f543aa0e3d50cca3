"""A progress bar that is quiet without a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, float | None], None]
"""(optimiser steps made, loss of the last one)."""


@contextmanager
def training_progress(total_steps: int, *, quiet: bool = False) -> Iterator[Update]:
    """Show steps, loss and remaining time on stderr while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield lambda step, loss: None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total_steps, loss="-")

        def update(step: int, loss: float | None) -> None:
            bar.update(task, completed=step, loss="-" if loss is None else f"{loss:.3f}")

        yield update
