"""Claim: a second `dvc repro` costs little more than one of as many stages that do nothing.

Times `dvc repro` in this checkout, in which nothing may be left to run, against a chain of as many
empty stages in a temporary folder, in turn. Prints both medians with least and most and their ratio
as one JSON line. `python -m bench.noop`.
"""

import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 7


def dvc(folder: Path, *arguments: str) -> str:
    """Run dvc there; its output."""
    command = [str(Path(sys.executable).parent / "dvc"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def seconds_of(folder: Path) -> float:
    """How long a `dvc repro` takes that runs nothing."""
    started = time.perf_counter()
    output = dvc(folder, "repro")
    if "Running stage" in output:
        raise SystemExit(f"{folder}: a stage ran; dvc repro first")
    return time.perf_counter() - started


def make_chain(folder: Path, stages: int) -> None:
    """A project of empty stages, each after the other, that has run."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    dvc(folder, "init", "-q")
    (folder / "0.txt").write_text("x", encoding="utf-8")
    lines = ["stages:"]
    for number in range(1, stages + 1):
        before, after = f"{number - 1}.txt", f"{number}.txt"
        lines += [f"  s{number}:", f"    cmd: cp {before} {after}"]
        lines += [f"    deps: [{before}]", f"    outs: [{after}]"]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dvc(folder, "repro")


def main() -> None:
    """Measure both and print the ratio."""
    here = Path.cwd()
    stages = len(re.findall(r"^Stage '", dvc(here, "repro"), flags=re.MULTILINE))
    times: dict[str, list[float]] = {"this": [], "empty": []}
    with tempfile.TemporaryDirectory() as temporary:
        empty = Path(temporary)
        make_chain(empty, stages)
        for _ in range(REPEATS):
            times["this"].append(seconds_of(here))
            times["empty"].append(seconds_of(empty))
    found: dict[str, object] = {
        name: [round(x, 2) for x in (statistics.median(t), min(t), max(t))]
        for name, t in times.items()
    }
    ratio = statistics.median(times["this"]) / statistics.median(times["empty"])
    facts = {"stages": stages, "machine": platform.machine(), "repeats": REPEATS}
    print(json.dumps(facts | found | {"ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
