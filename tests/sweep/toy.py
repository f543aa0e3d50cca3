"""A stand-in project: conf/, a cheap stage that computes a metric from params.yaml, Git, DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

SOURCE = Path(__file__).resolve().parents[2] / "src"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("DVC_")},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(SOURCE),
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}
CONFIG = """\
defaults: [_self_, {optim: adamw}, {experiment: null}]
x: 0.5
seed: 0
fail_above: 10.0
sleep_s: 0.0
"""
FILES = {
    "conf/config.yaml": CONFIG,
    "conf/optim/adamw.yaml": "name: adamw\nlr: 0.1\n",
    "conf/optim/sgd.yaml": "name: sgd\nlr: 1.0\nmomentum: 0.9\n",
    "conf/experiment/near.yaml": "# @package _global_\ndefaults: [override /optim: sgd]\nx: 0.2\n",
    ".gitignore": "/.plumbline/\n/ran.log\n__pycache__/\n",
    "dvc.yaml": """\
stages:
  fit:
    cmd: python fit.py
    deps: [fit.py]
    params: [x, optim, seed, fail_above, sleep_s]
    outs: [model]
  score:
    cmd: python score.py
    deps: [score.py, model]
    metrics: [{metrics.json: {cache: false}}]
  late:
    cmd: python -c "raise SystemExit('late must not run')"
    deps: [metrics.json]
    outs: [late.txt]
""",
    # Every run of the stage leaves a line in the workspace: what ran is counted, not believed.
    "fit.py": """\
import json, os, time
from pathlib import Path
from omegaconf import OmegaConf
params = OmegaConf.load("params.yaml")
root, name = Path(os.environ["DVC_ROOT"]), os.environ["DVC_EXP_NAME"]
with (root / "ran.log").open("a") as log:
    log.write(name + "\\n")
if params.x > params.fail_above:
    raise SystemExit("error: x is too large")
loss = (params.x - 0.3) ** 2 + abs(params.optim.lr - 0.05)
record = root / ".plumbline/runs" / f"20260101-000000-{name}-{os.getpid()}" / "fit-1.jsonl"
record.parent.mkdir(parents=True)
with record.open("w") as file:
    for step in (10, 20, 30):
        event = {"event": "metrics", "step": step, "values": {"val/loss": loss + 1 / step}}
        file.write(json.dumps(event) + "\\n")
        file.flush()
        time.sleep(params.sleep_s)
Path("model").mkdir()
Path("model/best.json").write_text(json.dumps({"loss": loss + params.seed * 0.001}))
""",
    "score.py": """\
import json
from pathlib import Path
loss = json.loads(Path("model/best.json").read_text())["loss"]
Path("metrics.json").write_text(json.dumps({"score": {"value": 1 - loss}}))
""",
}


@dataclass(frozen=True)
class Toy:
    """The project's folder."""

    folder: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def sweep(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "plumbline", "sweep", *arguments, check=check)

    def start_sweep(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "plumbline", "sweep", *arguments],
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ran(self) -> list[str]:
        """Names of the experiments whose stage has run, once for each time."""
        log = self.folder / "ran.log"
        return log.read_text(encoding="utf-8").split() if log.is_file() else []

    def workers(self) -> list[psutil.Process]:
        """The workers of this project's queue, and what they started."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            line = process.info["cmdline"] or []
            if "queue-worker" in line and process.info["cwd"] == str(self.folder):
                found.append(process)
        return found

    def running(self) -> list[psutil.Process]:
        """What works for this project: workers, and all that they started."""
        workers = self.workers()
        return [*workers, *(p for worker in workers for p in worker.children(recursive=True))]

    def stop_workers(self, *, with_runs: bool = True) -> None:
        for worker in self.workers():
            runs = worker.children(recursive=True) if with_runs else []
            for process in [*runs, worker]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue


def make_toy(folder: Path, sweep: str, changed: Mapping[str, str] | None = None) -> Toy:
    """The project in `folder`, committed, with a sweep named `s`."""
    for name, text in {**FILES, "sweeps/s.yaml": sweep, **(changed or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    toy = Toy(folder)
    toy.run("git", "init", "-q")
    toy.run("dvc", "init", "-q")
    toy.run("dvc", "config", "hydra.enabled", "True")
    shutil.copy(folder / "conf/config.yaml", folder / "params.yaml")
    compose = (
        "from hydra import compose, initialize_config_dir as i; from omegaconf import OmegaConf\n"
        f"with i({str(folder / 'conf')!r}, version_base=None):\n"
        "    open('params.yaml', 'w').write(OmegaConf.to_yaml(compose('config')))"
    )
    toy.run(sys.executable, "-c", compose)
    toy.run("git", "add", "-A")
    toy.run("git", "commit", "-qm", "Start")
    return toy
