"""A run cache that a killed dvc has left broken is mended, with the same results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline import heal as module
from plumbline.heal import cache_folder, heal

SRC = Path(__file__).resolve().parents[1] / "src"
DAG = "stages:\n  copy:\n    cmd: cp given made\n    deps: [given]\n    outs: [made]\n"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "DVC_NO_ANALYTICS": "1"}
    command = (sys.executable, "-m", *command)
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run(folder, "dvc", "init", "-q", "--no-scm")
    (folder / "dvc.yaml").write_text(DAG, encoding="utf-8")
    (folder / "given").write_text("rows", encoding="utf-8")
    assert run(folder, "dvc", "repro").returncode == 0
    return folder


def empty(entry: Path) -> None:
    """As killed after the folder was made."""
    entry.unlink()


def half(entry: Path) -> None:
    """As killed while the entry was written, beside its name."""
    text = entry.read_text(encoding="utf-8")
    entry.unlink()
    (entry.parent / ".half.tmp").write_text(text[: text.index("outs")], encoding="utf-8")


@pytest.mark.parametrize("leave", [empty, half])
def test_what_a_killed_dvc_left_of_an_entry_is_healed_with_the_same_result(
    project: Path, leave: object
) -> None:
    lock = project / "dvc.lock"
    before = lock.read_bytes()
    (entry,) = (path for path in (project / ".dvc/cache/runs").glob("*/*/*") if path.is_file())
    assert callable(leave)
    leave(entry)
    lock.unlink()  # so that the stage has to run
    (project / "made").unlink()
    broken = run(project, "dvc", "repro")
    assert broken.returncode != 0  # nothing of ours has run by then
    told = run(project, "plumbline", "heal")
    assert told.stdout.startswith("removed .dvc/cache/runs/")
    assert run(project, "dvc", "repro").returncode == 0
    assert lock.read_bytes() == before
    assert run(project, "plumbline", "heal").stdout == ""
    (again,) = (path for path in (project / ".dvc/cache/runs").glob("*/*/*") if path.is_file())
    assert again == entry


def test_whole_entries_beside_broken_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 0.0)
    folder = tmp_path / ".dvc/cache/runs/ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    whole, torn, other = folder / ("1" * 64), folder / ("2" * 64), folder / "tmp"
    whole.write_text("cmd: x\nouts:\n- path: made\n  md5: 0\n", encoding="utf-8")
    torn.touch()  # as a power failure leaves it
    other.write_text("cmd: x\nouts:\n- path: made\n", encoding="utf-8")
    assert heal(tmp_path) == [torn, other]
    assert list(folder.iterdir()) == [whole]
    assert heal(tmp_path) == []


def test_an_entry_in_the_making_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".dvc/cache/runs/ab" / ("ab" * 32)
    folder.mkdir(parents=True)
    entry = folder / ("1" * 64)
    content = "cmd: x\nouts:\n- path: made\n"
    monkeypatch.setattr(module.time, "sleep", lambda s: entry.write_text(content, encoding="utf-8"))
    assert heal(tmp_path) == []
    assert entry.is_file()


@pytest.mark.parametrize("place", ["config", "config.local"])
def test_the_cache_is_where_the_project_says(tmp_path: Path, place: str) -> None:
    (tmp_path / ".dvc").mkdir()
    assert cache_folder(tmp_path) == tmp_path / ".dvc/cache"
    (tmp_path / ".dvc" / place).write_text(
        "[cache]\n    dir = ../größe %x\n['remote \"a\"']\n    url = b\n", encoding="utf-8"
    )
    assert cache_folder(tmp_path) == tmp_path / ".dvc/../größe %x"
