"""`plumbline repro` ends as dvc ends, and lets it end in its own time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError

DVC = """#!{python}
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    time.sleep(1.0)  # saves its state
    Path("stopped").write_text(str(number))
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
Path("arguments").write_text(" ".join(sys.argv[1:]))
while True:
    time.sleep(0.05)
"""
"""Stands for a dvc whose training saves its state when it is told to stop."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a DAG and such a dvc."""
    (tmp_path / "bin").mkdir()
    dvc = tmp_path / "bin/dvc"
    dvc.write_text(DVC.format(python=sys.executable), encoding="utf-8")
    dvc.chmod(0o755)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    return tmp_path


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (file.is_file() and (text := file.read_text(encoding="utf-8"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_dvc_and_ends_with_its_code(project: Path, number: int) -> None:
    environment = {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "plumbline", "repro", "finetune@vqa", "--force"],
        cwd=project,
        env=environment,
        start_new_session=True,
    )
    assert wait_for(project / "arguments") == "repro finetune@vqa --force"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: both are told
    else:
        process.send_signal(number)
    assert process.wait(60) == 3
    assert (project / "stopped").read_text(encoding="utf-8") == str(int(number))


def test_outside_of_a_project_there_is_nothing_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r": no dvc.yaml here; plumbline init makes a project"):
        call(["repro"])
