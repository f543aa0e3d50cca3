"""The first signal is noted, the second one kills, and afterwards all is as before."""

import os
import signal

import pytest

from plumbline.training.signals import STOPPING, StopRequest


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_is_noted_and_left_with_its_exit_code(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.leave()
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one would kill
        with pytest.raises(SystemExit) as ended:
            stop.leave()
    assert ended.value.code == code
    assert signal.getsignal(number) == before


def test_handlers_are_restored_after_an_error() -> None:
    before = [signal.getsignal(n) for n in STOPPING]
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert [signal.getsignal(n) for n in STOPPING] == before
