"""`plumbline verify`, from the command line to the certificate."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plumbline.cli.main import call
from plumbline.cli.verify import read_request
from plumbline.errors import CheckpointError, ConfigError, OutputError
from plumbline.reproduction import verification
from plumbline.reproduction.machine import dump_record
from tests.reproduction.conftest import dvc, git, machine

OPTIONS: dict[str, Any] = {
    "preset": None,
    "runs": None,
    "against": None,
    "targets": (),
    "tolerance": "auto",
    "into": None,
}


def verify(project: Path, *arguments: str) -> dict[str, Any]:
    """Run the command in the project and read the certificate that it left."""
    code = 0
    try:
        call(["verify", *arguments])
    except SystemExit as end:
        code = int(str(end.code))
    (file,) = (project / ".plumbline" / "certificates").glob("*.json")
    certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert code == (0 if certificate["passed"] else 1)
    shutil.rmtree(file.parent)
    return certificate


def statuses(certificate: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in certificate["stages"]}


def record(project: Path, threads: int = 2) -> None:
    text = dump_record(project / "dvc.lock", machine(threads))
    (project / "reproduction.json").write_text(text, encoding="utf-8")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "Record the machine")


def test_a_commit_that_gives_its_record_again_passes(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(project)
    certificate = verify(project)
    assert statuses(certificate) == dict.fromkeys(("rows", "train", "measure"), "equal")
    assert certificate["exact"]
    assert all(stage["seconds"] > 0 for stage in certificate["stages"])
    printed = capsys.readouterr().out
    assert "Reproduction certificate: passed" in printed
    assert "the record's machine is of this type" in printed
    # Nothing of the run is left in the checkout.
    git(project, "diff", "--exit-code")
    assert not list(project.glob("run-*"))


def test_a_planted_difference_is_located_by_stage_and_file(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(project)
    monkeypatch.setenv("WRONG", "rows")
    certificate = verify(project)
    assert certificate["first_difference"] == "rows"
    rows, train, measure = certificate["stages"]
    assert (rows["output"], rows["file"]) == ("work/rows", "rows.txt")
    assert train["consequence_of"] == "rows"
    assert measure["status"] == "equal"
    assert "First difference: **rows: work/rows: rows.txt** (different)" in capsys.readouterr().out


def test_another_type_of_machine_may_give_figures_within_tolerance(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(project, threads=8)
    monkeypatch.setenv("WRONG", "train=0.93")
    near = verify(project)
    assert near["passed"]
    assert statuses(near)["train"] == "within tolerance"
    assert near["stages"][2]["figures"][0]["found"] == 0.93
    monkeypatch.setenv("WRONG", "train=0.8")
    far = verify(project)
    assert not far["passed"]
    assert far["first_difference"] == "train"


def test_a_failed_stage_shows_its_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "train_fails")
    certificate = verify(project)
    assert statuses(certificate) == {"rows": "equal", "train": "failed", "measure": "not run"}
    assert "error: no memory" in certificate["stages"][1]["detail"]


def test_two_runs_need_no_record_and_keep_to_the_targets(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git(project, "rm", "-q", "--cached", "dvc.lock")
    git(project, "commit", "-qm", "Forget the record")
    monkeypatch.setenv("WRONG", "train")
    into = tmp_path / "clones"
    certificate = verify(project, "--runs", "2", "--targets", "train", "--into", str(into))
    assert statuses(certificate) == {"rows": "equal", "train": "different"}
    assert certificate["stages"][1]["file"] == "model.bin"
    assert (into / "run-1" / "models" / "a" / "model.bin").is_file()
    assert (into / "run-2" / ".dvc" / "cache" / "files").is_dir(), "a shared cache was used"


def test_the_first_of_two_runs_may_fail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "train_fails")
    certificate = verify(project, "--runs", "2")
    assert statuses(certificate) == {"rows": "not compared", "train": "failed"}
    assert not certificate["passed"]


def test_ended_from_outside_it_ends_what_it_started(project: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "src"
    pid_file, clones = project.parent / "pid", project.parent / "clones"
    clones.mkdir()
    wrong = {"WRONG": f"rows_sleeps={pid_file}", "TMPDIR": str(clones), "PYTHONPATH": str(source)}
    command = [sys.executable, "-m", "plumbline", "verify", "--targets", "rows"]
    process = subprocess.Popen(command, env={**os.environ, **wrong}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while (
            not (pid_file.exists() and pid_file.read_text(encoding="utf-8"))
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert not is_at_work(int(pid_file.read_text(encoding="utf-8")))
    assert list(clones.iterdir()) == []


def is_at_work(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait a moment for its parent."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if (
            not stat.exists()
            or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
        ):
            return False
        time.sleep(0.1)
    return True


def test_what_is_not_committed_is_left_out_and_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "make.py").write_text("raise SystemExit(1)", encoding="utf-8")
    certificate = verify(project, "--targets", "rows")
    assert statuses(certificate) == {"rows": "equal"}
    assert any("uncommitted changes here (make.py)" in note for note in certificate["notes"])
    assert "uncommitted changes here (make.py)" in capsys.readouterr().err


def test_a_record_of_another_lock_is_noticed(project: Path) -> None:
    record(project)
    lock = project / "dvc.lock"
    lock.write_text(lock.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    git(project, "commit", "-qam", "Change the lock")
    certificate = verify(project, "--targets", "rows")
    assert certificate["recorded_machine"] is None
    assert certificate["exact"]
    assert any("belongs to another dvc.lock" in note for note in certificate["notes"])


def test_code_that_changed_after_the_record_is_named(project: Path) -> None:
    make = project / "make.py"
    make.write_text(make.read_text(encoding="utf-8").replace('"{}"', '"{ }"'), encoding="utf-8")
    git(project, "commit", "-qam", "Change the code")
    certificate = verify(project, "--against", ".")
    train = certificate["stages"][1]
    assert (train["status"], train["file"]) == ("within tolerance", "config.json")
    assert train["changed_inputs"] == ["make.py"]
    assert certificate["compared_with"] == "dvc.lock of ."


def test_without_a_record_there_is_nothing_to_compare_with(project: Path) -> None:
    git(project, "rm", "-q", "dvc.lock")
    git(project, "commit", "-qm", "Forget the record")
    with pytest.raises(CheckpointError, match=r"dvc\.lock: missing; run dvc repro and commit it"):
        call(["verify"])


def test_tracked_data_comes_from_the_checkout_or_is_missed(project: Path) -> None:
    (project / "data" / "mine.txt").write_text("1 2 3", encoding="utf-8")
    dvc(project, "add", "data/mine.txt")
    lines = (project / "dvc.yaml").read_text(encoding="utf-8")
    (project / "dvc.yaml").write_text(
        lines.replace("[make.py]", "[make.py, data/mine.txt]"), encoding="utf-8"
    )
    git(project, "add", "-A")
    git(project, "commit", "-qm", "Add data")
    assert verify(project, "--runs", "1", "--targets", "rows")["stages"][0]["status"] == "equal"
    shutil.rmtree(project.parent / "shared", ignore_errors=True)
    (project / ".dvc" / "config").write_text("[cache]\n    dir = ../../empty\n", encoding="utf-8")
    with pytest.raises(OutputError, match="dvc pull"):
        call(["verify"])


def test_a_folder_without_a_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no commit to verify"):
        call(["verify"])


def test_a_folder_below_the_top_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "data")
    with pytest.raises(ConfigError, match="not the top folder of the project"):
        call(["verify"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "smoke", "runs": 1}, "--preset smoke --runs 1: .* use --runs 2"),
        ({"runs": 2, "against": Path("x")}, "--against and --runs 2"),
        ({"into": Path(__file__).parent}, "not empty; name a new folder"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_request(OPTIONS | options)


@pytest.mark.parametrize(
    ("options", "runs"),
    [({}, 1), ({"preset": "smoke"}, 2), ({"preset": "smoke", "against": Path("x")}, 1)],
)
def test_a_preset_is_compared_with_itself_unless_there_is_a_record(
    options: dict[str, Any], runs: int
) -> None:
    assert read_request(OPTIONS | options).runs == runs


def test_a_machine_with_other_versions_does_not_claim_the_lock(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "describe_machine", machine)
    call(["verify", "--record"])
    written = json.loads((project / "reproduction.json").read_text(encoding="utf-8"))
    assert written["machine"]["threads"] == 2
    lock = project / "dvc.lock"
    other = "      params.yaml:\n        versions.torch: 2.0.0\n"
    lock.write_text(
        lock.read_text(encoding="utf-8").replace("      params.yaml:\n", other), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"train was made under torch 2\.0\.0, but 2\.15\.0"):
        call(["verify", "--record"])
