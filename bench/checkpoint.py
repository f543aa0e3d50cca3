"""Claim: for a checkpoint the training loop waits a quarter of the time of torch.save at most.

A model and its optimiser are saved in turn by the trainer's own saving, whose files are written
beside the loop, and by torch.save into the same folder, which syncs and digests nothing. The first
save makes the buffers and does not count; before each the one before is whole on disk. The state
read back must be the one that was saved. Prints one JSON line: medians, least and most of the wall
time until the loop goes on, its ratio to torch.save, and beside them the time until the files are
whole. Exit code 1: the ratio is over its limit.
`python -m bench.checkpoint [--repeats 5] [--megabytes 300]`.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from plumbline.models.weights import plain_state
from plumbline.training.checkpoint import CheckpointStore, optimizer_tensors
from plumbline.training.config import CheckpointConfig, TrainerConfig
from plumbline.training.engine import OwnEngine
from plumbline.training.machine import Machine
from plumbline.training.processes import Processes
from plumbline.training.progress import Progress
from plumbline.training.saving import Saving

MAX_RATIO = 0.25
WIDTH = 1024


def build(megabytes: int, device: torch.device) -> tuple[nn.Module, OwnEngine]:
    """A stack of layers and its AdamW, stepped once, of so many megabytes together."""
    torch.manual_seed(0)
    layers = max(1, round(megabytes * 1e6 / (3 * 4 * WIDTH * (WIDTH + 1))))
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers))).to(device)
    engine = OwnEngine(model, TrainerConfig(), Machine(device, "fp32", Processes()))
    model(torch.ones(1, WIDTH, device=device)).square().mean().backward()
    engine.optimizer.step()
    return model, engine


def timed(act: Callable[[], object]) -> float:
    """Wall seconds of a call, with all that the device had to do for it before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def check(saving: Saving, model: nn.Module, optimizer: torch.optim.Optimizer, size: int) -> None:
    """Compare what is on disk with what was saved, bit for bit."""
    path = saving.store.latest()
    assert path is not None, "nothing was saved"
    other, engine = build(size, torch.device("cpu"))
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    engine.load(path)
    for one, two in (
        (plain_state(model), plain_state(other)),
        (dict(optimizer_tensors(optimizer)), dict(engine.moments())),
    ):
        assert one.keys() == two.keys(), "other tensors came back"
        assert all(torch.equal(one[n].cpu(), two[n]) for n in one), "another state came back"


def measure(folder: Path, size: int, repeats: int) -> dict[str, object]:
    """Both ways in turn, several times."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, engine = build(size, device)
    optimizer = engine.optimizer
    scaler = torch.GradScaler(device.type, enabled=False)
    progress = Progress(TrainerConfig())
    store = CheckpointStore(folder / "ours", "f")
    saving = Saving(store, engine, scaler, progress, Processes(), CheckpointConfig())
    seconds: dict[str, list[float]] = {"loop_waits": [], "until_whole": [], "torch_save": []}
    for number in range(repeats + 1):
        progress.clock.pass_over(1, 1)
        waits = timed(saving.save)
        whole = waits + timed(saving.finish)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        peer = timed(lambda state=state: torch.save(state, folder / "peer.pt"))
        if number:
            for name, value in zip(seconds, (waits, whole, peer), strict=True):
                seconds[name].append(value)
    check(saving, model, optimizer, size)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "device": str(device),
        "state_mb": round((folder / "peer.pt").stat().st_size / 1e6),
        "repeats": repeats,
        "ratio": round(medians["loop_waits"] / medians["torch_save"], 3),
        **{
            f"{name}_s": [round(x, 4) for x in (medians[name], min(values), max(values))]
            for name, values in seconds.items()
        },
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure in a folder that goes."""
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=300)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(dir=ROOT, prefix=".bench-"))  # a disk, where /tmp may be memory
    try:
        found = measure(folder, options.megabytes, options.repeats)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found))
    return 0 if float(str(found["ratio"])) <= MAX_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
