"""Stopping on SIGTERM, Ctrl-C or a closed terminal at the next step boundary."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TypeVar

from plumbline.waiting import STOPPING

Item = TypeVar("Item")


class WaitInterrupted(BaseException):
    """A signal came while the training only waited for data."""


class StopRequest:
    """Within its block, the first signal that asks to stop is only noted; a second one kills."""

    def __init__(self, agree: Callable[[int], int] = int, *, alone: bool = True) -> None:
        """Nothing is asked for yet.

        Args:
            agree: the largest of one number of each process of the training, so that all of them
                stop after the same step.
            alone: whether there is but one process. It need not wait for data before it stops;
                several can only stop together, at the boundary of a step.
        """
        self._agree, self._alone = agree, alone
        self._noted = 0
        self._signal = 0
        self._waits = False
        self._pid = os.getpid()
        self._before: dict[int, signal.Handlers | int | object | None] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOPPING:
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before == signal.SIG_IGN:
                continue  # nohup: it is to outlive its terminal
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a loader process that has just been forked
        self._noted = number
        signal.signal(number, signal.SIG_DFL)  # the next one kills
        if self._waits:
            raise WaitInterrupted

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waits = self._alone
        try:
            # It came during the step: the wait for data, perhaps a long one, need not begin.
            if self._waits and self._noted:
                raise WaitInterrupted
            yield
        finally:
            self._waits = False

    def while_waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items, each wait for which a signal ends.

        Raises:
            WaitInterrupted: it came.
        """
        while True:
            with self._waiting():
                try:
                    item = next(items)
                except StopIteration:  # within a generator it would be a RuntimeError
                    return
            yield item

    def requested(self) -> bool:
        """Whether a signal has come, here or in another process; they ask at the same moments."""
        # Of the agreed signal, not of the own: all must end after the same step, with one code.
        self._signal = self._agree(self._noted)
        return self._signal > 0

    def obey(self) -> None:
        """Look whether a signal has come, and `leave`."""
        self.requested()
        self.leave()

    def leave(self) -> None:
        """End the process if a signal was met: 143 after SIGTERM, 130 after SIGINT, 129 SIGHUP."""
        if self._signal:
            raise SystemExit(128 + self._signal)
