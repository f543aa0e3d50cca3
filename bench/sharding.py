"""Claim: two processes that share a model's layers need less memory each than with whole models.

Trains a stack of transformer layers in two processes over gloo, with whole and with spread layers,
in turn. Prints, as one JSON line: for both the most memory that a process took for the model and
its training (growth of its peak resident set from before the model is built), the median time of a
step with least and most, and their ratios. `python -m bench.sharding`.
"""

import json
import os
import pickle
import platform
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

os.environ["OMP_NUM_THREADS"] = "1"  # for each process; torch looks when it is imported

import torch
from torch import Tensor, nn

from plumbline.batch import Batch, LossSum
from plumbline.training.config import OptimConfig
from plumbline.training.machine import Machine
from plumbline.training.optim import build_optimizer
from plumbline.training.processes import Processes
from plumbline.training.sharding import ShardedLayers
from plumbline.training.task import Task
from plumbline.training.window import Gradients

WIDTH, LAYERS, LENGTH, SAMPLES = 768, 12, 32, 4
STEPS, REPEATS = 6, 3
TIMEOUT_S = 600.0
CPU = torch.device("cpu")


class Stack(nn.Module):
    """Layers of a transformer between an embedding and a head."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, dropout=0.0, batch_first=True)
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, length, 256]."""
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def loss(model: nn.Module, batch: Batch) -> LossSum:
    """Of the ids themselves: what is learnt does not matter here."""
    ids = batch["ids"]
    total = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), reduction="sum")
    return LossSum(total, torch.tensor(ids.numel()))


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train(processes: Processes) -> tuple[int, list[float]]:
    """Make some steps; the growth of the peak, and the seconds of each step but the first."""
    before = peak()
    torch.manual_seed(0)
    model = Stack()
    if processes.sharded:
        ShardedLayers(model, processes)
    optimizer = build_optimizer(model, OptimConfig())
    task = Task(name="stack", loss=loss, collate=lambda samples: {})
    scaler = torch.GradScaler("cpu", enabled=False)
    gradients = Gradients(model, task, Machine(CPU, "fp32", processes), scaler)
    ids = torch.randint(256, (SAMPLES, LENGTH))
    mine = processes.share.of(ids.numpy())
    batch = {"ids": torch.from_numpy(mine), "sample_index": torch.arange(len(mine))}
    seconds = []
    for number in range(STEPS):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        gradients.accumulate([batch], [number])
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return peak() - before, seconds[1:]


def in_two(folder: Path, *, sharded: bool) -> tuple[int, list[float]]:
    """Train in two fresh processes: the larger peak, and the steps of the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        if (pid := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            found = train(Processes.join(CPU, TIMEOUT_S, sharded=sharded))
            (folder / str(rank)).write_bytes(pickle.dumps(found))
            os._exit(0)
        children.append(pid)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"a process ended with {status}")
    peaks, seconds = zip(
        *(pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)), strict=True
    )
    return max(peaks), seconds[0]


def measure() -> dict[str, Any]:
    """Both ways in turn, several times."""
    found: dict[bool, list[tuple[int, list[float]]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for sharded, runs in found.items():
                runs.append(in_two(Path(folder), sharded=sharded))
    result: dict[str, Any] = {}
    for name, sharded in (("whole", False), ("sharded", True)):
        steps = [s for _, seconds in found[sharded] for s in seconds]
        result[name] = {
            "peak_mb": round(statistics.median(p for p, _ in found[sharded]) / 1e6),
            "step_s": [round(x, 3) for x in (statistics.median(steps), min(steps), max(steps))],
        }
    whole, spread = result["whole"], result["sharded"]
    result["memory_ratio"] = round(spread["peak_mb"] / whole["peak_mb"], 3)
    result["time_ratio"] = round(spread["step_s"][0] / whole["step_s"][0], 3)
    return result


if __name__ == "__main__":
    parameters = sum(p.numel() for p in Stack().parameters())
    facts = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    facts["parameters"] = parameters
    print(json.dumps(facts | measure()))
