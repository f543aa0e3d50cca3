"""Writing beside the training loop: in a thread, in order, and never with an error unheard."""

from collections.abc import Callable
from threading import Thread


class BackgroundWriter:
    """Writes one thing after another while the loop goes on.

    After a failure nothing more is written: what comes later builds on what came before. The loop
    hears of it from whichever method it calls next.
    """

    def __init__(self) -> None:
        """Nothing is to be written."""
        self._last: Thread | None = None
        self.failed = False
        """Whether something could not be written."""
        self._unheard: BaseException | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Write behind what is being written.

        Raises:
            BaseException: that of an earlier writing which failed.
        """
        self.check()
        # Not a daemon: a process that ends in whatever way but by a kill ends with all written.
        self._last = Thread(target=self._run, args=(write, self._last), name="checkpoint")
        self._last.start()

    def _run(self, write: Callable[[], None], before: Thread | None) -> None:
        if before is not None:
            before.join()
        if self.failed:
            return
        try:
            write()
        except BaseException as error:  # the edge of a thread: the loop raises it again
            self.failed, self._unheard = True, error

    def check(self) -> None:
        """Say what has failed, without waiting for what is being written.

        Raises:
            BaseException: that of a writing which failed, once.
        """
        error, self._unheard = self._unheard, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until all is written, and say what failed.

        Raises:
            BaseException: that of a writing which failed, once.
        """
        if self._last is not None:
            self._last.join()
            self._last = None
        self.check()
