"""Claim: a tracking server that is down or hangs neither slows a training nor holds up its start.

The same fine-tuning of the smoke preset with tracking off, with nothing at the server's address and
with a server that takes connections and never answers, in turn. Prints one JSON line of medians,
each also in relation to tracking off:

- wall_s: as the clock has it, with all that other processes of the machine do to it;
- own_s: wall time without the main thread's waits for a core, which the kernel counts: what it
  computed, and what it waited for disks, sleeps and connections;
- cpu_s: of the stage and the children that it waited for, so without the forwarder;
- first_step_s: from the start of the process to the first optimiser step.

Exit code 1: own_s or cpu_s is over its limit, or the first step comes too late.
`python -m bench.tracking [--repeats 3] [--epochs 60]`.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from plumbline.files import read_digests
from plumbline.tracking.forwarders import RUNS
from tests.pipeline.checkout import ENVIRONMENT, Checkout, make_checkout

MAX_SLOWER = 1.05
MAX_DELAY_S = 10.0


@dataclass(frozen=True)
class Run:
    """One training."""

    wall_s: float
    own_s: float
    cpu_s: float
    first_step_s: float
    digests: Mapping[str, str]


def unused_port() -> int:
    """A loopback port at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def hanging_server() -> Iterator[int]:
    """The port of a server that accepts every connection and never says a word."""
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    held.append(server.accept())

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        assert held, "nobody asked the server: tracking was not on"


def train(checkout: Checkout, epochs: int, environment: Mapping[str, str]) -> Run:
    """Run the fine-tuning from nothing, then end what it left behind."""
    for place in ("models/tasks/vqa", ".ckpt", str(RUNS)):
        shutil.rmtree(checkout.folder / place, ignore_errors=True)
    command = [sys.executable, "-m", "stages.finetune", "vqa"]
    command.append(f"tasks.vqa.train.trainer.epochs={epochs}")
    began, started = time.time(), time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=checkout.folder,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    queued = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        queued = max(queued, seconds_queued(process.pid))
        time.sleep(0.05)
    wall = time.monotonic() - started
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    end_forwarder(checkout)
    assert process.returncode == 0, f"the training gave {process.returncode}"
    return Run(
        wall_s=wall,
        own_s=wall - queued,
        cpu_s=usage.ru_utime + usage.ru_stime,
        first_step_s=first_step(checkout) - began,
        digests=read_digests(checkout.folder / "models/tasks/vqa"),
    )


def seconds_queued(pid: int) -> float:
    """How long the main thread of a process has waited for a core; 0 once it has ended.

    Source: Documentation/scheduler/sched-stats.rst of Linux, the second figure, in nanoseconds.
    """
    with suppress(OSError, IndexError):
        return (
            int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8").split()[1])
            / 1e9
        )
    return 0.0


def first_step(checkout: Checkout) -> float:
    """When the first optimiser step was recorded, in seconds since 1970."""
    (record,) = (checkout.folder / RUNS).glob("*/finetune@vqa-*.jsonl")
    events = map(json.loads, record.read_text(encoding="utf-8").splitlines())
    return next(float(event["time"]) for event in events if event["event"] == "metrics")


def end_forwarder(checkout: Checkout) -> None:
    """End the forwarder that a training has started: the next one must start its own."""
    root = str(checkout.folder.resolve())
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = place.read_bytes().decode(errors="replace").split("\0")
            if "plumbline.tracking.forwarder" in words and root in words:
                os.kill(int(place.parent.name), signal.SIGKILL)
    (checkout.folder / ".plumbline/forwarder-state.json").unlink(missing_ok=True)


def summarize(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, float]]:
    """Medians by kind of tracking, and their relation to those without."""
    figures = ("wall_s", "own_s", "cpu_s", "first_step_s")
    medians = {
        name: {f: statistics.median(getattr(run, f) for run in of_kind) for f in figures}
        for name, of_kind in runs.items()
    }
    off = medians["off"]
    for values in medians.values():
        for figure in ("wall", "own", "cpu"):
            values[f"{figure}_ratio"] = values[f"{figure}_s"] / off[f"{figure}_s"]
        values["start_delay_s"] = values["first_step_s"] - off["first_step_s"]
    return {
        name: {figure: round(value, 3) for figure, value in values.items()}
        for name, values in medians.items()
    }


def main(arguments: Sequence[str]) -> int:
    """Measure in a checkout of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracking", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60, help="so many that a run takes 15 s")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, hanging_server() as port:
        checkout = make_checkout(Path(folder) / "smoke")
        checkout.run("dvc", "repro", "pretrain_alignment@image")
        tracked = {"PLUMBLINE_TRACKING": "mlflow"}
        kinds: dict[str, dict[str, str]] = {
            "off": {"PLUMBLINE_TRACKING": "off"},
            "down": {**tracked, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{unused_port()}"},
            "hanging": {**tracked, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"},
        }
        runs: dict[str, list[Run]] = {name: [] for name in kinds}
        for number in range(options.repeats):
            for name in [*kinds][number % 3 :] + [*kinds][: number % 3]:
                runs[name].append(train(checkout, options.epochs, kinds[name]))
                run = runs[name][-1]
                print(
                    name,
                    *(round(s, 1) for s in (run.wall_s, run.own_s, run.cpu_s)),
                    file=sys.stderr,
                )
    digests = [run.digests for of_kind in runs.values() for run in of_kind]
    assert all(found == digests[0] for found in digests), "tracking has changed an output"
    medians = summarize(runs)
    good = all(
        max(m["own_ratio"], m["cpu_ratio"]) <= MAX_SLOWER and m["start_delay_s"] <= MAX_DELAY_S
        for m in medians.values()
    )
    print(json.dumps({**medians, "repeats": options.repeats, "epochs": options.epochs}))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
