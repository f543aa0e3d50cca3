"""Importing large libraries without looking for garbage, and ending without taking them apart."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Libraries look at the end for what of theirs was left, so all is cleared up as ever.
atexit.register(gc.unfreeze)


@contextmanager
def importing() -> Iterator[None]:
    """Keep the collector of cycles out of the imports within.

    What a module holds lives as long as the process, so whoever looks for garbage among it finds
    nothing, again and again: a tenth of the time that transformers takes to load, and a part of
    every later collection. So it rests meanwhile, and then passes over all there is.
    """
    if not gc.isenabled():  # within another
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave() -> NoReturn:
    """End the process with code 0 and all that it printed, but without clearing up.

    To take libraries of this size apart takes half as long as to load them. For processes whose
    work is published and that started no other.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
