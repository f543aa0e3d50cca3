"""What is written beside the loop is written in order, and its failure is heard once."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plumbline.errors import OutputError
from plumbline.training.background_writer import BackgroundWriter


def test_the_loop_goes_on_while_writings_come_in_order() -> None:
    writer, go, written = BackgroundWriter(), threading.Event(), []

    def first() -> None:
        go.wait()
        written.append(1)

    writer.begin(first)
    writer.begin(lambda: written.append(2))
    writer.check()
    assert written == []  # were one waited for, this would never be reached
    go.set()
    writer.wait()
    assert written == [1, 2]
    writer.wait()


def failing() -> None:
    raise OutputError("a: the disk is full")


@pytest.mark.parametrize("method", ["wait", "check", "begin"])
def test_a_failure_is_raised_by_the_next_call_and_nothing_is_written_behind_it(
    method: str,
) -> None:
    writer, go, written = BackgroundWriter(), threading.Event(), []

    def fail() -> None:
        go.wait()
        failing()

    writer.begin(fail)
    writer.begin(lambda: written.append(2))
    go.set()
    assert writer._last is not None
    writer._last.join()
    arguments = [lambda: written.append(3)] if method == "begin" else []
    with pytest.raises(OutputError, match=r"^a: the disk is full$"):
        getattr(writer, method)(*arguments)
    writer.wait()  # it is heard once
    writer.begin(lambda: written.append(4))
    writer.wait()
    assert written == []


ENDING = """
import sys, threading
from plumbline.training.background_writer import BackgroundWriter

def write():
    threading.main_thread().join()  # the interpreter is on its way out
    open(sys.argv[1], "w").write("whole")

BackgroundWriter().begin(write)
raise SystemExit(3)
"""


def test_a_process_that_leaves_early_ends_with_all_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", ENDING, str(out)], check=False)
    assert done.returncode == 3
    assert out.read_text(encoding="utf-8") == "whole"
