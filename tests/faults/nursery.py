"""One process that has a stage imported and forks it again and again, each time to be killed.

`python nursery.py <stage> [key]` in a checkout; requests and answers are JSON lines. What is forked
is the stage itself, `run_stage(main)`, with its command line; only its imports are already done.
"""

import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = {
    "evaluate_alignment": ["plumbline.kinds.alignment.evaluate", "plumbline.models.stored"],
    "evaluate_model": ["plumbline.kinds.vlm.evaluate", "plumbline.models.stored"],
    "export_model": [
        "plumbline.export.bundle",
        "plumbline.kinds.vlm.export",
        "plumbline.models.stored",
    ],
    "finetune": ["plumbline.training.run", "plumbline.kinds.vlm.train", "plumbline.models.stored"],
    "pretrain_alignment": ["plumbline.training.run", "plumbline.kinds.alignment.train"],
    "report": ["plumbline.report.page", "plumbline.report.selection"],
}
"""What a stage imports within its `main`; the rest comes with the stage."""

FILE_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"})
"""Audit events of Python that change, or may change, something on disk."""


@dataclass(frozen=True)
class Moment:
    """When a fork is killed."""

    kind: str
    """after: at `value` seconds; writing: `value` seconds after a temporary name was seen;
    operation: at file operation number `value` below the outputs; never."""
    value: float = 0.0


def _die_at(count: int) -> None:
    """Kill this very process at its n-th file operation below the outputs or training states."""
    left = [count]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not _is_ours(event, arguments):
            return
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _is_ours(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        return False
    path = str(arguments[0])
    return any(mark in path for mark in (".partial-", ".before-", ".removed-", ".ckpt"))


def _run_stage(stage: str, arguments: list[str], log: str, moment: Moment) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [stage, *arguments]
    if moment.kind == "operation":
        _die_at(int(moment.value))
    from plumbline.stage import run_stage

    code = 0
    try:
        run_stage(importlib.import_module(f"stages.{stage}").main)
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child, negative for a signal; None when it still runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.0005)


def _is_writing(places: list[str]) -> bool:
    try:
        return any(next(Path(place).glob("**/.*.partial-*"), None) for place in places)
    except FileNotFoundError:  # a folder went while it was looked through: look again
        return False


def _attend(pid: int, moment: Moment, places: list[str]) -> int:
    """Kill a child at its moment, or wait for its end; returns its exit code."""
    if moment.kind == "writing":
        while (code := _wait(pid, 0.0)) is None and not _is_writing(places):
            time.sleep(0.0002)
        if code is not None:
            return code
    patience = moment.value if moment.kind in ("after", "writing") else 600.0
    code = _wait(pid, patience)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        code = _wait(pid, 60.0)
    assert code is not None, "a killed process does not end"
    return code


def main() -> None:
    """Serve requests until the input ends."""
    stage, *arguments = sys.argv[1:]
    sys.path.insert(0, str(Path.cwd()))
    importlib.import_module(f"stages.{stage}")
    for name in MODULES.get(stage, []):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "end\n":
            break
        request = json.loads(line)
        moment = Moment(**request["moment"])
        started = time.monotonic()
        # The process has begun no thread and no computation: a fork of it is a fresh start.
        if not (pid := os.fork()):
            os.setpgid(0, 0)
            _run_stage(stage, [*arguments, *request["more"]], request["log"], moment)
        with suppress(OSError):  # whoever of the two comes first
            os.setpgid(pid, pid)
        code = _attend(pid, moment, request["places"])
        answer = {"pid": pid, "code": code, "seconds": time.monotonic() - started}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
