"""Claim: gradients are on their way to the other process when the backward pass ends.

Trains a stack of transformer layers in two processes over gloo, with gradients that are sent during
the backward pass and after it, in turn. Prints, as one JSON line: for both the share of the bytes
that are on their way when the pass ends; as median, least and most the seconds of a step, its CPU
seconds over both processes, and how long the first one waits at its end for sums; and the ratios of
the medians. Over the loopback the processes themselves carry what travels, so that there is nothing
to gain here: it needs a link, or a device, that works beside them. `python -m bench.overlap`.
"""

import json
import os
import pickle
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

os.environ["OMP_NUM_THREADS"] = "1"  # for each process; torch looks when it is imported

import torch
from torch import Tensor

from bench.sharding import CPU, LENGTH, SAMPLES, TIMEOUT_S, Stack, loss
from plumbline.training.gradient_sum import GradientSum
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.task import Task
from plumbline.training.window import Gradients

STEPS, REPEATS = 8, 5


@contextmanager
def nothing_during(self: GradientSum, roots: Sequence[Tensor]) -> Iterator[None]:
    """A backward pass in which nothing is sent: all is behind it."""
    yield


def note(waits: list[float], shares: list[float]) -> None:
    """Have noted the seconds of each `finish`, and the share of the bytes sent within `during`."""
    finish, send_all = GradientSum.finish, GradientSum._send_all

    def noted(self: GradientSum) -> None:
        sent = sum(message.flat.nbytes for message in self._sent)
        shares.append(sent / sum(p.nbytes for p in self._place))
        send_all(self)

    GradientSum._send_all = noted  # type: ignore[method-assign]

    def timed(self: GradientSum) -> None:
        started = time.perf_counter()
        finish(self)
        waits.append(time.perf_counter() - started)

    GradientSum.finish = timed  # type: ignore[method-assign]


def train(processes: Processes) -> dict[str, list[float]]:
    """Make the gradients of some steps; seconds, CPU seconds and waits of each but the first."""
    torch.manual_seed(0)
    model, waits, shares = Stack(), [], []
    note(waits, shares)
    task = Task(name="stack", loss=loss, collate=lambda samples: {})
    scaler = torch.GradScaler("cpu", enabled=False)
    gradients = Gradients(model, task, Machine(CPU, "fp32", processes), scaler)
    ids = torch.randint(256, (SAMPLES, LENGTH))
    mine = torch.from_numpy(processes.share.of(ids.numpy()))
    batch = {"ids": mine, "sample_index": torch.arange(len(mine))}
    seconds, cpu = [], []
    for number in range(STEPS):
        model.zero_grad(set_to_none=True)
        processes.sum([0.0])  # both begin at once
        started, used = time.perf_counter(), time.process_time()
        gradients.accumulate([batch], [number])
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"step_s": seconds[1:], "cpu_s": cpu[1:], "wait_s": waits[1:], "share": shares[1:]}


def in_two(folder: Path, *, overlapped: bool) -> list[dict[str, list[float]]]:
    """Train in two fresh processes; what each has measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        if (pid := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if not overlapped:
                GradientSum.during = nothing_during  # type: ignore[method-assign, assignment]
            found = train(Processes.join(CPU, TIMEOUT_S))
            (folder / str(rank)).write_bytes(pickle.dumps(found))
            os._exit(0)
        children.append(pid)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"a process ended with {status}")
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


def spread(values: Sequence[float]) -> list[float]:
    """Median, least and most."""
    return [round(x, 3) for x in (statistics.median(values), min(values), max(values))]


def measure() -> dict[str, Any]:
    """Both ways in turn, several times."""
    found: dict[bool, list[list[dict[str, list[float]]]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for overlapped, runs in found.items():
                runs.append(in_two(Path(folder), overlapped=overlapped))
    result: dict[str, Any] = {}
    for name, overlapped in (("after", False), ("during", True)):
        firsts = [first for first, _ in found[overlapped]]
        both = [
            sum(pair)
            for first, second in found[overlapped]
            for pair in zip(first["cpu_s"], second["cpu_s"], strict=True)
        ]
        result[name] = {
            "sent_share": round(firsts[0]["share"][0], 3),
            "step_s": spread([s for run in firsts for s in run["step_s"]]),
            "cpu_s": spread(both),
            "wait_s": spread([s for run in firsts for s in run["wait_s"]]),
        }
    after, during = result["after"], result["during"]
    for figure in ("step_s", "cpu_s", "wait_s"):
        result[f"{figure}_ratio"] = round(during[figure][0] / after[figure][0], 3)
    return result


if __name__ == "__main__":
    parameters = sum(p.numel() for p in Stack().parameters())
    facts = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    print(json.dumps({**facts, "parameters": parameters, **measure()}))
