"""Lines that native libraries write to standard error by themselves: counted, not shown.

libtiff and libmpg123 say of damaged bytes what the decoder's error says already, of each file
anew, and in words that name neither row nor file.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()  # descriptor 2 belongs to the whole process
_count = 0


def library_lines() -> int:
    """How many lines this process has kept from standard error."""
    return _count


@contextmanager
def counted_lines(*, noisy: bool = True) -> Iterator[None]:
    """Take what is written to descriptor 2 meanwhile; where `noisy` is false, do nothing."""
    if not noisy:
        yield
        return
    with _lock:
        try:
            shown = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        taken = os.memfd_create("library-lines")
        os.dup2(taken, 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            _add(taken)


def _add(taken: int) -> None:
    global _count
    with os.fdopen(taken, "rb") as lines:
        lines.seek(0)
        _count += sum(1 for _ in lines)
