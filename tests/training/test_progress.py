"""The progress bar shows on a terminal, and nowhere else."""

import io
import sys

import pytest

from plumbline.training.progress import training_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with training_progress(10) as update:
        update(0, None)
        update(3, 0.5)
    assert stderr.getvalue() == ""


def test_a_terminal_shows_steps_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with training_progress(10) as update:
        update(0, None)
        update(3, 0.51234)
    assert "3/10" in stderr.getvalue()
    assert "0.512" in stderr.getvalue()
