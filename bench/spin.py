"""Claim: compute threads that wait a little actively cost nothing beside other jobs, nor alone.

Makes the same training steps of a small network of recordings with each way of waiting in turn,
alone and beside as many busy processes as there are cores. Prints for each the least wall and CPU
seconds of its repeats, and whether all ended in the same weights, as one JSON line.
`python -m bench.spin`.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time

WAYS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    **{str(count): {"GOMP_SPINCOUNT": str(count)} for count in (100, 1000, 3000, 10000, 30000)},
}
STEPS = 40
BUSY = "while True: pass"


def work(steps: int) -> None:
    """Train, in a process of its own; prints seconds and a digest of the weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    model = nn.Sequential(
        nn.Linear(5, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    )
    head = nn.Linear(64, 3)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    x, y = torch.randn(32, 100, 5), torch.arange(32) % 3
    started, before = time.perf_counter(), time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(model(x).mean(dim=1)), y).backward()
        optimizer.step()
    seconds = time.perf_counter() - started, time.process_time() - before
    bits = b"".join(p.detach().numpy().tobytes() for p in parameters)
    print(json.dumps([*seconds, hashlib.sha256(bits).hexdigest()]))


def measure(way: dict[str, str], threads: int) -> tuple[float, float, str]:
    """Seconds, CPU seconds and the digest of one run."""
    own = {n: v for n, v in os.environ.items() if not n.startswith(("OMP_", "GOMP_"))}
    environment = {**own, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **way}
    command = [sys.executable, "-m", "bench.spin", "--work"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wall, cpu, digest = json.loads(done.stdout)
    return wall, cpu, digest


def compare(repeats: int, threads: int, busy: int) -> tuple[dict[str, list[float]], set[str]]:
    """The least seconds of each way, and all digests."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in WAYS}
    try:
        for _ in range(repeats):
            for name, way in WAYS.items():
                found[name].append(measure(way, threads))
    finally:
        for other in others:
            other.kill()
            other.wait()
    least = {
        name: [round(min(run[i] for run in runs), 2) for i in (0, 1)]
        for name, runs in found.items()
    }
    return least, {run[2] for runs in found.values() for run in runs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", action="store_true", help="be one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.work:
        work(STEPS)
        return
    cores = len(os.sched_getaffinity(0))
    alone, digests = compare(options.repeats, options.threads, 0)
    beside, more = compare(options.repeats, options.threads, cores)
    print(
        json.dumps(
            {
                "claim": __doc__.splitlines()[0],
                "wall and CPU seconds alone": alone,
                "wall and CPU seconds beside busy processes": beside,
                "same weights": len(digests | more) == 1,
                "cpu_ratio": round(beside["1000"][1] / beside["default"][1], 3),
                "cores": cores,
                "threads": options.threads,
                "load": os.getloadavg()[0],
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
