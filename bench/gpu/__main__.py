"""All claims about a GPU in one call: `python -m bench.gpu [--limit SECONDS] [claim[:case] ...]`.

Each claim runs in a process of its own, the most telling first, until the time is over. Results are
JSON lines on the standard output and in `$OUT/gpu.jsonl`, written as they come; what each process
says beside is in `$OUT/gpu.log`. Without arguments all of `PLAN` runs. What the machine lacks lies
in a folder that `bench.gpu.pack` has made, named by `BENCH_SITE`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

OUT = Path(os.environ.get("OUT", "/tmp/bench-gpu"))
PLAN = {
    "language": (["ours", "bare_compiled", "ours_fastest", "ours_large", "bare_eager"], 240),
    "vision_language": (["ours", "bare_layers", "ours_frozen", "ours_fastest"], 240),
    "contrastive": (
        ["ours", "open_clip_compiled", "open_clip_eager", "ours_frozen", "ours_fastest"],
        220,
    ),
    "adapters": ([], 240),
    "deterministic": ([], 60),
}
"""Claim -> its cases (none: all) and the seconds that it may take."""


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def lines_of(claim: str, cases: list[str], limit: float, log: Path) -> Iterator[str]:
    """Run a claim; its lines, and one that says how it ended."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"bench.gpu.{claim}", *cases]
    with log.open("a", encoding="utf-8") as said:
        said.write(f"\n$ {' '.join(command)}\n")
        said.flush()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        assert process.stdout is not None
        timer = _kill_later(process, limit)
        for line in process.stdout:
            said.write(line)
            yield line.rstrip("\n")
        code = process.wait()
        timer.cancel()
    seconds = round(time.monotonic() - began, 1)
    yield json.dumps({"claim": claim, "case": "end", "exit": code, "seconds": seconds})


def _kill_later(process: "subprocess.Popen[str]", limit: float) -> threading.Timer:
    timer = threading.Timer(limit, process.kill)
    timer.start()
    return timer


def main(arguments: list[str]) -> None:
    """Run claims and print what they print."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for all")
    parser.add_argument("claims", nargs="*", help="claim, or claim:case,case")
    asked = parser.parse_args(arguments)
    OUT.mkdir(parents=True, exist_ok=True)
    site = os.environ.get("BENCH_SITE")
    paths = [*([site] if site else []), "src", os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    ends = time.monotonic() + asked.limit
    plan = {claim.partition(":")[0]: claim.partition(":")[2] for claim in asked.claims}
    with (OUT / "gpu.jsonl").open("a", encoding="utf-8") as file:
        _keep(file, json.dumps({"claim": "machine", **machine()}))
        for claim in plan or PLAN:
            cases, limit = PLAN[claim]
            chosen = plan[claim].split(",") if plan.get(claim) else cases
            left = min(limit, ends - time.monotonic())
            if left > 15:
                for line in lines_of(claim, chosen, left, OUT / "gpu.log"):
                    _keep(file, line)


def _keep(file: TextIO, line: str) -> None:
    file.write(f"{line}\n")
    file.flush()
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
