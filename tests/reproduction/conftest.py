"""A project of three stages that runs in a second, committed with its record."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.reproduction import verification
from plumbline.reproduction.machine import Machine
from tests.reproduction.test_machine import HERE

DVC_YAML = """
stages:
  rows:
    cmd: python make.py rows
    deps: [make.py]
    outs: [work/rows]
  train:
    cmd: python make.py train
    deps: [make.py, work/rows]
    params: [threads]
    outs: [models/a]
  measure:
    cmd: python make.py measure
    deps: [models/a]
    metrics: [{metrics/tasks/a.json: {cache: false}}]
"""

# What a stage does wrong is told by the environment, so that the commit stays the same.
MAKE = """
import json, os, pathlib, sys, time
stage = sys.argv[1]
wrong = os.environ.get("WRONG", "").split("=")
if stage == "rows":
    out = pathlib.Path("work/rows")
    files = {"rows.txt": "1 2 3"}
elif stage == "train":
    out = pathlib.Path("models/a")
    files = {"config.json": "{}", "model.bin": pathlib.Path("work/rows/rows.txt").read_text()}
else:
    out = pathlib.Path("metrics/tasks")
    figure = float(wrong[1]) if wrong[1:] else 0.9
    files = {"a.json": json.dumps({"exact_match": figure})}
if wrong[0] == stage + "_fails":
    sys.exit("error: no memory")
if wrong[0] == stage + "_sleeps":
    pathlib.Path(wrong[1]).write_text(str(os.getpid()))
    time.sleep(100)
if wrong[0] == stage:
    files["model.bin" if stage == "train" else "rows.txt"] = str(time.time_ns())
out.mkdir(parents=True, exist_ok=True)
for name, text in files.items():
    (out / name).write_text(text)
if stage != "measure":
    (out / "digests.json").write_text(json.dumps(sorted(files.items())))
"""

VERIFY_YAML = "default: {absolute: 0.05}\nfigures: []\nexact: [rows]\n"


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def dvc(folder: Path, *arguments: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments, "-q"]
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=True)


@pytest.fixture(scope="session")
def reproduced_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first run, its cache outside of it."""
    folder = tmp_path_factory.mktemp("project") / "checkout"
    (folder / "data").mkdir(parents=True)
    files = {
        "data/.gitkeep": "",
        "dvc.yaml": DVC_YAML,
        "make.py": MAKE,
        "params.yaml": "threads: 2\n",
        "verify.yaml": VERIFY_YAML,
        ".gitignore": "/work\n/models\n/.plumbline\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q")
    dvc(folder, "init")
    dvc(folder, "cache", "dir", str(folder.parent / "shared"))
    dvc(folder, "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Reproduce")
    return folder


@pytest.fixture
def project(reproduced_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; the machine is `HERE` unless a test changes that."""
    folder = tmp_path / "checkout"
    shutil.copytree(reproduced_project, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(verification, "describe_machine", machine)
    return folder


def machine(threads: int) -> Machine:
    return HERE.model_copy(update={"threads": threads})
