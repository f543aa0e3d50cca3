"""Claim: a second `dvc repro` costs little more than one of as many stages that do nothing.

Times `dvc repro` in which nothing is left to run against a chain of as many empty stages, in turn:
in this checkout as it is, or with `--entries N` in a copy with N datasets and N tasks of the smoke
preset, whose outputs are placeholders. Prints the medians of CPU seconds with least and most, and
their ratio, as one JSON line. `python -m bench.noop --entries 50`.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 7


def run(folder: Path, *command: str) -> str:
    """Run a command there; its output."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PLUMBLINE_TRACKING": "off"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def cpu_seconds(folder: Path) -> float:
    """CPU seconds of a `dvc repro` that runs nothing."""
    before = os.times()
    output = run(folder, "dvc", "repro")
    after = os.times()
    if "Running stage" in output:
        raise SystemExit(f"{folder}: a stage ran; dvc repro first")
    return sum(after[2:4]) - sum(before[2:4])


def make_chain(folder: Path, stages: int) -> None:
    """A project of empty stages, each after the other, that has run."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    (folder / "0.txt").write_text("x", encoding="utf-8")
    lines = ["stages:"]
    for number in range(1, stages + 1):
        before, after = f"{number - 1}.txt", f"{number}.txt"
        lines += [f"  s{number}:", f"    cmd: cp {before} {after}"]
        lines += [f"    deps: [{before}]", f"    outs: [{after}]"]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(folder, "dvc", "repro")


def many(params: dict[str, Any], entries: int) -> dict[str, Any]:
    """The smoke preset with `entries` datasets and tasks."""
    (dataset,), (task,) = params["datasets"].values(), params["tasks"].values()
    (aligned,) = params["align"].values()
    aligned["data"] = "d0"
    params["datasets"] = {f"d{n}": deepcopy(dataset) for n in range(entries)}
    params["tasks"] = {f"t{n}": {**deepcopy(task), "data": f"d{n}"} for n in range(entries)}
    return params


def make_project(folder: Path, entries: int) -> None:
    """A copy of this checkout with many entries, in which nothing is left to run."""
    for name in ("conf", "plugins", "src", "stages", "dvc.yaml", "params.yaml", ".dvcignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "data").mkdir()
    (folder / "data/.gitkeep").touch()
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    config = folder / "conf/config.yaml"
    text = config.read_text(encoding="utf-8").replace("experiment: null", "experiment: smoke")
    config.write_text(text, encoding="utf-8")
    run(folder, sys.executable, "-m", "stages.check_params", "--write")
    params = many(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")), entries)
    del params["versions"]
    composed = {"defaults": ["versions", "_self_"], **params}
    config.write_text(yaml.safe_dump(composed, sort_keys=False), encoding="utf-8")
    run(folder, sys.executable, "-m", "stages.check_params", "--write")
    run(folder, "dvc", "repro", "--single-item", "digest_code", "check_params")
    for out in yaml.safe_load(run(folder, sys.executable, "-c", LIST_OUTS)):
        place = folder / out
        if place.suffix:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("{}\n", encoding="utf-8")
        elif not place.exists():
            place.mkdir(parents=True)
            (place / "placeholder").write_text(out, encoding="utf-8")
    run(folder, "dvc", "commit", "--force")


LIST_OUTS = """
import json
from dvc.repo import Repo
repo = Repo()
print(json.dumps([o.fs_path[len(repo.root_dir) + 1:] for o in repo.index.outs]))
"""


def measure(here: Path, temporary: Path) -> dict[str, Any]:
    """Both times and their ratio."""
    stages = len(re.findall(r"^Stage '", run(here, "dvc", "repro"), flags=re.MULTILINE))
    make_chain(temporary, stages)
    times: dict[str, list[float]] = {"this": [], "empty": []}
    for _ in range(REPEATS):
        times["this"].append(cpu_seconds(here))
        times["empty"].append(cpu_seconds(temporary))
    found: dict[str, Any] = {
        name: [round(x, 2) for x in (statistics.median(t), min(t), max(t))]
        for name, t in times.items()
    }
    ratio = statistics.median(times["this"]) / statistics.median(times["empty"])
    return {"stages": stages, **found, "ratio": round(ratio, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=0, help="datasets and tasks; 0: as it is")
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as project, tempfile.TemporaryDirectory() as chain:
        here = Path.cwd()
        if entries:
            here = Path(project)
            make_project(here, entries)
        found = measure(here, Path(chain))
    facts = {"entries": entries, "machine": platform.machine(), "repeats": REPEATS}
    print(json.dumps(facts | found))


if __name__ == "__main__":
    main()
