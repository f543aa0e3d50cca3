"""Stopping on SIGTERM or Ctrl-C at the next step boundary."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class StopRequest:
    """Within its block, the first SIGTERM or SIGINT is only noted; a second one kills."""

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        """Nothing is asked for yet.

        Args:
            agree: the largest of one number of each process of the training, so that all of them
                stop after the same step.
        """
        self._agree = agree
        self._noted = 0
        self._signal = 0
        self._before: dict[int, signal.Handlers | int | object | None] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
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
        self._noted = number
        signal.signal(number, signal.SIG_DFL)

    def requested(self) -> bool:
        """Whether a signal has come, here or in another process; they ask at the same moments."""
        self._signal = self._agree(self._noted)
        return self._signal > 0

    def leave(self) -> None:
        """End the process if a signal was met: 143 after SIGTERM, 130 after SIGINT."""
        if self._signal:
            raise SystemExit(128 + self._signal)
