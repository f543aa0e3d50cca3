"""Claim: one embedding width a batch costs less time and memory than the sum over all widths.

Prints, as one JSON line, CPU milliseconds of the contrastive loss with its gradient (median of the
repeats with least and most) and megabytes kept for the backward pass, both ways: five widths added
up, and each of them alone. `python -m bench.widths [BATCH]`.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor

from plumbline.losses.contrastive import info_nce, matryoshka

WIDTHS, REPEATS, THREADS = [32, 64, 128, 256, 512], 15, 1


def measure(sides: Sequence[Tensor], widths: list[int]) -> tuple[list[float], float]:
    """Milliseconds of each repeat but the first, and megabytes kept for the backward pass."""
    positives = torch.eye(len(sides[0]), dtype=torch.bool)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    times = []
    for _ in range(REPEATS + 1):
        kept.clear()
        start = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = matryoshka(*sides, positives, widths, partial(info_nce, logit_scale=14.3))
        torch.autograd.grad(loss.total, sides)
        times.append((time.process_time() - start) * 1000)
    return times[1:], sum(kept.values()) / 1e6


def figures(times: Sequence[float], megabytes: float) -> dict[str, float]:
    """Median, least and most of the times, and the memory."""
    found = {"ms": statistics.median(times), "least": min(times), "most": max(times)}
    return {name: round(value, 2) for name, value in {**found, "mb": megabytes}.items()}


def main(arguments: Sequence[str]) -> None:
    """Measure the sum over all widths and each width alone."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    batch = int(arguments[0]) if arguments else 1024
    sides = [torch.randn(batch, WIDTHS[-1], requires_grad=True) for _ in range(2)]
    together = figures(*measure(sides, WIDTHS))
    alone = {width: figures(*measure(sides, [width])) for width in WIDTHS}
    mean = {name: statistics.mean(found[name] for found in alone.values()) for name in ("ms", "mb")}
    print(
        json.dumps(
            {
                "claim": "cost of the loss with one width a batch against the sum over all",
                "batch": batch,
                "all_widths": together,
                "one_width": alone,
                "ratio_time": round(mean["ms"] / together["ms"], 3),
                "ratio_memory": round(mean["mb"] / together["mb"], 3),
                "repeats": REPEATS,
                "threads": THREADS,
                "load": round(os.getloadavg()[0], 2),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
