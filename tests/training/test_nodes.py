"""A training over two nodes is that of one process; a node that is lost ends the other one.

The nodes are two agents of torchrun on the loopback, in one folder, as machines share one.
"""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from plumbline.errors import ConfigError
from plumbline.files import read_json
from plumbline.models.weights import read_tensors
from plumbline.stages import detect_shapes, prepare, tokenize_text, validate
from plumbline.training.config import TrainerConfig
from plumbline.training.machine import check_machine
from plumbline.training.nodes import TORCHRUN, is_first_here, processes_here

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests/training/exact_stage.py")
WORDS = ("red", "green", "blue", "round", "square", "large")
TRAINER = {
    "device": "cpu",
    "precision": "fp32",
    "epochs": 3,
    "grad_accum_steps": 2,
    "optim": {"lr": 5e-3},
    "checkpoint": {"every_steps": 1},
}
EPOCHS = 15
ENCODER = {"name": "transformer", "layers": 1, "max_tokens": 18, "width": 16, "heads": 2}


def write_project(folder: Path) -> None:
    """Reviews of two labels, through the data stages."""
    rows = [f"{i},{WORDS[i % 6]} {WORDS[i % 5]} {i % 7},{'ab'[i % 2]}" for i in range(90)]
    (folder / "reviews.csv").write_text("id,text,label\n" + "\n".join(rows), encoding="utf-8")
    columns = {"sample_id": "id", "text": "text", "label": "label"}
    dataset = {
        "path": "reviews.csv",
        "weights": "none",
        "prepare": {"source": "csv", "columns": columns},
        "validate": {
            "views": {"classify": ["text", "label"]},
            "split": {"val": 0.2, "test": 0.2, "min_rows": 4},
        },
        "detect_shapes": {"min_train_rows": 1},
        "tokenize": {"tokenizer": {"vocab_size": 300}},
    }
    train = {
        "model": {"encoder": {**ENCODER, "mlp_width": 16, "dropout": 0.0}},
        "task": {"inputs": {"modality": "text", "column": "text", "max_tokens": 16}},
        "loader": {"batch_size": 5},
        "trainer": {**TRAINER, "processes": 1},
    }
    task = {
        "kind": "classification",
        "data": "reviews",
        "start": "work/cache/reviews",
        "weights": "none",
        "train": train,
    }
    params = {"seed": 0, "threads": 1, "datasets": {"reviews": dataset}, "tasks": {"tone": task}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        stage.main(["reviews"])
    shutil.copytree(ROOT / "stages", folder / "stages")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("nodes"), Path.cwd()
    os.chdir(folder)
    try:
        write_project(folder)
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Nodes:
    """Two nodes of one training, and what they say."""

    def __init__(self, project: Path, *, by_stage: bool = False, **trainer: Any) -> None:
        """Start them: by torchrun, or by the stage, which starts torchrun's agent."""
        self._project, port = project, free_port()
        settings = [f"tasks.tone.train.trainer.{k}={v}" for k, v in trainer.items()]
        self._logs = [project / f"node-{rank}.log" for rank in range(2)]
        self.nodes = []
        for rank, log in enumerate(self._logs):
            words = f"--nnodes 2 --node-rank {rank} --master-addr 127.0.0.1 --master-port {port}"
            over = ["tone", "tasks.tone.train.trainer.processes=2", *settings]
            command = [sys.executable, "-m", "stages.finetune", *over]
            if not by_stage:
                agent = ["-m", "torch.distributed.run", *words.split(), "--nproc-per-node", "1"]
                command = [sys.executable, *agent, SCRIPT, *over]
            self.nodes.append(start(project, command, log, {TORCHRUN: words} if by_stage else {}))

    def wait(self) -> list[int]:
        return [node.wait(300) for node in self.nodes]

    def said(self, rank: int) -> str:
        return self._logs[rank].read_text(encoding="utf-8")

    def processes(self, rank: int) -> list[psutil.Process]:
        """The agent of a node, and what it has started."""
        agent = psutil.Process(self.nodes[rank].pid)
        return [agent, *agent.children(recursive=True)]

    def until_saved(self, states: int) -> None:
        """Wait until the training has saved so many states."""
        end = time.monotonic() + 200
        while len(list(self._project.glob(".ckpt/*/*/step-*"))) < states:
            assert time.monotonic() < end, self.said(0) + self.said(1)
            time.sleep(0.02)


def start(
    project: Path, command: list[str], log: Path, more: dict[str, str]
) -> subprocess.Popen[bytes]:
    samples = project / f"samples-{log.stem}"
    samples.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "PLUMBLINE_TRACKING": "off",
        "SAMPLES": str(samples),
        **more,
    }
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=file)


def train_alone(project: Path) -> None:
    log = project / "alone.log"
    assert start(project, [sys.executable, SCRIPT, "tone"], log, {}).wait(300) == 0, log.read_text()


def column(project: Path, file: str, name: str) -> list[float]:
    with (project / "models/tasks/tone" / file).open(encoding="utf-8") as opened:
        return [float(row[name]) for row in csv.DictReader(opened)]


def samples(project: Path, name: str) -> list[list[str]]:
    """The samples of each batch, in the order of its rows, over all processes."""
    files = sorted((project / f"samples-{name}").iterdir())
    return [line.split() for file in files for line in file.read_text().splitlines()]


def digests(project: Path) -> Any:
    return read_json(project / "models/tasks/tone/digests.json")


@pytest.mark.slow
def test_two_nodes_train_as_one_process_does(made: Path, tmp_path: Path) -> None:
    """Losses in float64 to 1e-6, and the same samples in the same order."""
    one, two = (Path(shutil.copytree(made, tmp_path / name)) for name in ("one", "two"))
    train_alone(one)
    pair = Nodes(two)
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    alone = column(one, "train.csv", "loss")
    assert len(alone) > 10
    assert column(two, "train.csv", "loss") == pytest.approx(alone, rel=1e-6)
    rates = column(one, "train.csv", "lr")
    assert column(two, "train.csv", "lr") == pytest.approx(rates, rel=1e-12)
    norms = column(one, "train.csv", "grad_norm")
    assert column(two, "train.csv", "grad_norm") == pytest.approx(norms, rel=1e-6)
    measured = column(one, "val.csv", "loss")
    assert column(two, "val.csv", "loss") == pytest.approx(measured, rel=1e-6)
    assert column(two, "micro.csv", "value") == pytest.approx(
        column(one, "micro.csv", "value"), rel=1e-6
    )
    expected, found = (read_tensors(f / "models/tasks/tone/model.safetensors") for f in (one, two))
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, rtol=1e-6, atol=1e-8)
    shares = zip(samples(two, "node-0"), samples(two, "node-1"), strict=True)
    assert [first + second for first, second in shares] == samples(one, "alone")


@pytest.mark.slow
def test_the_stage_itself_takes_its_part_where_the_environment_says_so(project: Path) -> None:
    """As `dvc repro` on the first node runs it: no word of torchrun in the command."""
    pair = Nodes(project, by_stage=True)
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    assert "finetune tone: " in pair.said(0)
    assert pair.said(1) == ""
    assert digests(project)


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a training over two nodes comes to that nothing interrupts."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("whole") / "project"))
    pair = Nodes(folder, by_stage=True, epochs=EPOCHS)
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    return digests(folder)


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_node_ends_the_other_and_the_resumed_run_is_the_whole_one(
    whole: Any, project: Path, lost: int, how: signal.Signals
) -> None:
    """Killed, as a process is; or silent, with its connections open, as without power."""
    pair = Nodes(project, by_stage=True, epochs=EPOCHS)
    pair.until_saved(1)
    gone = pair.processes(lost)
    try:
        send(gone, how)
        began = time.monotonic()
        code = pair.nodes[1 - lost].wait(120)
        took = time.monotonic() - began
    finally:
        send(gone, signal.SIGKILL)
        pair.nodes[lost].wait()
    said = pair.said(1 - lost)
    assert code == 1, said
    assert took < 60
    assert "Traceback" not in said
    assert "The last checkpoint stands" in said or "the last checkpoint stands" in said
    assert not (project / "models/tasks/tone").exists()

    again = Nodes(project, by_stage=True, epochs=EPOCHS)
    assert again.wait() == [0, 0], again.said(0) + again.said(1)
    assert digests(project) == whole


@pytest.mark.parametrize(
    ("words", "processes", "here"),
    [("", 4, 4), ("--nnodes 2 --node-rank 0", 4, 2), ("--nnodes=4", 4, 1), ("--nnodes 2", 1, 1)],
)
def test_processes_are_spread_over_the_nodes(
    monkeypatch: pytest.MonkeyPatch, words: str, processes: int, here: int
) -> None:
    monkeypatch.setenv(TORCHRUN, words)
    assert processes_here(processes) == here
    assert is_first_here()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_here()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nnodes 1:4", "--nnodes 1:4 is no number of nodes; such as --nnodes 2"),
        ("--nnodes 3", "cannot be spread evenly over the 3 nodes of PLUMBLINE_TORCHRUN"),
    ],
)
def test_words_that_give_no_such_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.setenv(TORCHRUN, words)
    with pytest.raises(ConfigError, match=said):
        processes_here(4)


def test_torchrun_refuses_words_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from plumbline.training.launch import run_processes

    monkeypatch.setenv(TORCHRUN, "--nnodes 2 --node-rank one")
    with pytest.raises(ConfigError, match="invalid int value: 'one'") as error:
        run_processes("stages.finetune", ["tone"], 2)
    assert "\n" not in str(error.value)


def test_each_node_needs_gpus_for_its_own_processes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = TrainerConfig.model_validate({"processes": 8, "device": "cuda"})
    monkeypatch.setenv(TORCHRUN, "--nnodes 2")
    check_machine("trainer", trainer, 1, gpus=4)
    with pytest.raises(ConfigError, match="4 processes need 4 GPUs, there are 3"):
        check_machine("trainer", trainer, 1, gpus=3)
    monkeypatch.delenv(TORCHRUN)
    with pytest.raises(ConfigError, match="8 processes need 8 GPUs, there are 4"):
        check_machine("trainer", trainer, 1, gpus=4)
