"""The collector of cycles rests while libraries load, and a process leaves with all it said."""

import gc
import subprocess
import sys

import pytest

from plumbline.imports import importing


def test_nothing_is_collected_while_libraries_load() -> None:
    with importing():
        assert not gc.isenabled()
        with importing():
            assert not gc.isenabled()
        assert not gc.isenabled()  # the inner one does not begin what the outer one holds
    assert gc.isenabled()
    gc.unfreeze()


def test_the_collector_goes_on_where_an_import_fails() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError("no such library")
    assert gc.isenabled()
    gc.unfreeze()


def run(code: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_was_imported_is_cleared_up_at_the_end() -> None:
    code = """
from plumbline.imports import importing
class Holder:
    def __del__(self): print("cleared")
with importing():
    one = Holder(); one.itself = one
del one
"""
    assert run(code) == (0, "cleared\n", "")


def test_a_process_leaves_with_all_it_said_and_clears_nothing_up() -> None:
    code = """
import atexit, sys
from plumbline.imports import leave
atexit.register(print, "cleared")
print("answer" * 20_000)
print("warning", file=sys.stderr)
leave()
"""
    assert run(code) == (0, "answer" * 20_000 + "\n", "warning\n")


@pytest.mark.parametrize(("command", "cleared"), [("predict", False), ("completion", True)])
def test_of_the_commands_those_leave_that_only_answer(command: str, cleared: bool) -> None:
    code = f"""
import atexit, sys
from plumbline.cli import main
atexit.register(print, "cleared")
main.call = lambda arguments: print(*arguments)
sys.argv = ["plumbline", {command!r}]
main.main()
"""
    assert run(code) == (0, f"{command}\n" + "cleared\n" * cleared, "")
