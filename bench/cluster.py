"""What a cluster costs: the data stages of one dataset on this machine, and on two nodes of it.

Rows are drawn (`scenes`), judged at level `full` and cached by the stages themselves, each in a
process of its own; `ray` has two nodes of one CPU each on this machine, so that it can win nothing:
what it takes more is the price of carrying items. Prints CPU seconds and wall seconds of each stage
and whether all outputs are the same bytes, as one JSON line.
`python -m bench.cluster [IMAGES]`.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Nothing listens beyond this machine.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["PYTHONPATH"] = str(ROOT / "src")
os.environ["PLUMBLINE_TRACKING"] = "off"

import psutil
import yaml
from ray.cluster_utils import Cluster

STAGES = ("prepare", "validate", "detect_shapes", "tokenize_text")
NODE = {"num_cpus": 1, "object_store_memory": 200 * 2**20}


def write_params(folder: Path, engine: str, images: int) -> None:
    """A dataset of drawings."""
    (folder / "none").touch()
    views = {"caption": ["image", "caption"], "qa": ["image", "question", "answer"]}
    dataset = {
        "path": "none",
        "weights": "none",
        "engine": engine,
        "prepare": {"source": "scenes", "images": images, "image_size": 96},
        "validate": {"views": views, "level": "full"},
        "detect_shapes": {},
        "tokenize": {"tokenizer": {"vocab_size": 512}},
    }
    text = yaml.safe_dump({"datasets": {"data": dataset}})
    (folder / "params.yaml").write_text(text, encoding="utf-8")


class Clock:
    """CPU seconds of all that this process starts, looked at ten times a second.

    Ray reaps its workers without counting what they took.
    """

    def __init__(self) -> None:
        """Look from now on."""
        self._seen: dict[tuple[int, float], float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = times.user + times.system
            time.sleep(0.1)

    def read(self) -> float:
        """Seconds until now."""
        return sum(list(self._seen.values()))


def run(folder: Path, engine: str, images: int, clock: Clock) -> tuple[dict[str, Any], str]:
    """CPU and wall seconds of each stage, and a digest of all that they wrote."""
    folder.mkdir()
    write_params(folder, engine, images)
    found: dict[str, Any] = {}
    for stage in STAGES:
        cpu, wall = clock.read(), time.perf_counter()
        command = [sys.executable, "-m", f"stages.{stage}", "data"]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=True, stderr=-3
        )
        found[stage] = {
            "cpu_s": round(clock.read() - cpu, 1),
            "wall_s": round(time.perf_counter() - wall, 1),
        }
    digest = hashlib.sha256()
    for path_ in sorted((folder / "work").rglob("*")):
        if path_.is_file():
            digest.update(path_.relative_to(folder).as_posix().encode() + path_.read_bytes())
    return found, digest.hexdigest()


def main(arguments: list[str]) -> None:
    """Run both, and print."""
    images = int(arguments[0]) if arguments else 2000
    with tempfile.TemporaryDirectory() as name:
        clock = Clock()
        local, expected = run(Path(name) / "local", "local", images, clock)
        idle, began = clock.read(), time.perf_counter()
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            started = {
                "cpu_s": round(clock.read() - idle, 1),
                "wall_s": round(time.perf_counter() - began, 1),
            }
            os.environ["RAY_ADDRESS"] = cluster.address
            ray, found = run(Path(name) / "ray", "ray", images, clock)
        finally:
            cluster.shutdown()
        rows = json.loads((Path(name) / "local/work/raw/data/account.json").read_text())["rows"]
    line = {
        "claim": "cluster",
        "rows": rows,
        "local": local,
        "ray": ray,
        "two nodes": started,
        "same_bytes": found == expected,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
