"""Stopping on SIGTERM or Ctrl-C at the next step boundary."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """Within its block, the first SIGTERM or SIGINT only sets `requested`; a second one kills."""

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self._signal: int | None = None
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
        self._signal = number
        signal.signal(number, signal.SIG_DFL)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def leave(self) -> None:
        """End the process if a signal has come: 143 after SIGTERM, 130 after SIGINT."""
        if self._signal is not None:
            raise SystemExit(128 + self._signal)
