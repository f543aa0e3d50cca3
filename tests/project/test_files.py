"""The files of a project: as the package has them, and what an upgrade does to edited ones."""

from pathlib import Path

import pytest
import yaml

from plumbline.cli.main import call
from plumbline.errors import ConfigError, OutputError
from plumbline.project import files
from plumbline.project.files import (
    CHECKOUT,
    LOCK,
    State,
    begin,
    changes,
    project_files,
    read_lock,
    upgrade,
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    begin(tmp_path / "mine")
    return tmp_path / "mine"


def newer(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Let another version of plumbline be installed, with other files."""
    now = project_files()
    new = {name.replace("__", "/") + ".yaml": text for name, text in changed.items()}
    then = {k: v for k, v in ({**now, **new}).items() if v is not None}
    monkeypatch.setattr(files, "project_files", lambda: then)
    monkeypatch.setattr(files, "__version__", "9.0.0")


def test_a_project_has_the_dag_settings_and_scripts_of_the_checkout(project: Path) -> None:
    for place in ("conf/tasks/vqa.yaml", "stages/finetune.py", "verify.yaml", "sweeps/vqa_lr.yaml"):
        assert (project / place).read_bytes() == (CHECKOUT / place).read_bytes()
    ours = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))
    ours["stages"]["digest_code"]["deps"].remove("src/plumbline")
    ours["stages"]["digest_code"]["always_changed"] = True
    assert yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8")) == ours
    assert not (project / "src").exists()


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"README\.md: is there already; name another folder"):
        begin(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "conf", "notes.txt"]
    (tmp_path / "README.md").unlink()
    begin(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("folder", "error", "told"),
    [
        ("notes", ConfigError, r"notes: is a file; name a folder"),
        ("notes/mine", OutputError, r"notes/mine: Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(
    tmp_path: Path, folder: str, error: type[Exception], told: str
) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    with pytest.raises(error, match=told):
        begin(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_file_that_is_no_text_any_more_is_one_that_the_project_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "verify.yaml").write_bytes(b"\xff\xfe\x00")
    newer(monkeypatch, verify="new: 1\n")
    assert [change.state for change in changes(project)] == [State.BOTH]


def test_with_the_same_version_nothing_changes(project: Path) -> None:
    (project / "verify.yaml").write_text("mine: 1\n", encoding="utf-8")
    (project / "sweeps/vqa_lr.yaml").unlink()
    assert list(changes(project)) == []


def test_an_upgrade_takes_what_the_project_left_as_it_was(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "conf/tasks/vqa.yaml").write_text("mine: 1\n", encoding="utf-8")
    (project / "conf/tasks/cifar10.yaml").write_text("mine: 2\n", encoding="utf-8")
    newer(
        monkeypatch,
        verify="new: 1\n",
        conf__tasks__vqa="new: 2\n",
        conf__tasks__other="new: 3\n",
        sweeps__vqa_lr=None,
    )
    assert {change.path: change.state for change in changes(project)} == {
        "conf/tasks/other.yaml": State.NEW,
        "conf/tasks/vqa.yaml": State.BOTH,
        "sweeps/vqa_lr.yaml": State.GONE,
        "verify.yaml": State.OUTDATED,
    }
    left = upgrade(project)
    assert [change.path for change in left] == ["conf/tasks/vqa.yaml"]
    assert "-mine: 1\n+new: 2\n" in left[0].diff()
    assert (project / "verify.yaml").read_text(encoding="utf-8") == "new: 1\n"
    assert (project / "conf/tasks/other.yaml").read_text(encoding="utf-8") == "new: 3\n"
    assert (project / "conf/tasks/vqa.yaml").read_text(encoding="utf-8") == "mine: 1\n"
    assert (project / "conf/tasks/cifar10.yaml").read_text(encoding="utf-8") == "mine: 2\n"
    assert not (project / "sweeps/vqa_lr.yaml").exists()
    assert read_lock(project)[0] == "9.0.0"
    # What is left to the owner is told again until it is put in.
    assert [change.path for change in changes(project)] == ["conf/tasks/vqa.yaml"]
    (project / "conf/tasks/vqa.yaml").write_text("new: 2\n", encoding="utf-8")
    assert list(changes(project)) == []


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"version": "1"}', '{"version": 1, "files": 3}']
)
def test_a_folder_without_a_good_lock_is_refused(project: Path, text: str | None) -> None:
    (project / LOCK).unlink()
    if text is not None:
        (project / LOCK).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"plumbline\.lock: (missing|not a lock)"):
        list(changes(project))


def test_the_command_shows_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    newer(monkeypatch, verify="new: 1\n")
    monkeypatch.chdir(project)
    call(["upgrade"])
    shown = capsys.readouterr().out
    assert shown.startswith("verify.yaml: outdated\n--- verify.yaml\n+++ verify.yaml of plumbline")
    assert shown.endswith("--write takes what you have not changed\n")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
