"""Loader processes that die: named in one line, whatever the training was doing at that moment."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from plumbline.errors import TrainingError

_DEATH = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed|exited)[^.]*")


def refuse_dead_worker(error: BaseException) -> None:
    """Raise if an error says that a loader process died, which is no fault of the batch at hand.

    torch learns of it from a signal, so its `RuntimeError` comes up wherever the main thread is: in
    the wait for a batch as well as in a loss, an optimiser step or a checkpoint.

    Raises:
        TrainingError: names the process and what ended it.
    """
    if isinstance(error, RuntimeError) and (death := _DEATH.search(str(error))):
        raise TrainingError(
            f"loader: {death[0]}; where memory is short lower loader.workers or loader.cache_mb "
            "(0 workers need least), then run again: the training goes on from its last state"
        ) from error


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Turn the death of a loader process within the block into `refuse_dead_worker`'s error."""
    try:
        yield
    except RuntimeError as error:
        refuse_dead_worker(error)
        raise
