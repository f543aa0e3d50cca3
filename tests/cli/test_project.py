"""The commands that a new project needs, one after the other in one folder."""

import subprocess
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError, PlumblineError
from plumbline.kinds.classification.settings import CLASS_LOSSES
from plumbline.project import files


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "mine"
    call(["init", str(folder)])
    return folder


@pytest.fixture
def project(begun: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(begun)
    return begun


def test_a_project_is_a_repository_with_composed_settings(project: Path) -> None:
    assert (project / ".git").is_dir()
    assert "versions:" in (project / "params.yaml").read_text(encoding="utf-8")
    assert (project / "conf/versions.yaml").is_file()


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_the_files_of_a_project_are_committed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment of DVC needs a commit, also where Git knows nobody's name."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("EMAIL", "")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    call(["init", "."])
    assert git(tmp_path, "log", "--format=%s") == "Begin a project of plumbline\n"
    assert git(tmp_path, "status", "--porcelain") == "?? notes.txt\n"
    assert "schema/params.json" in git(tmp_path, "ls-files")


def test_a_repository_that_is_there_is_left_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git(tmp_path, "init", "--quiet")
    call(["init", str(tmp_path / "mine")])
    assert "git add . && git commit -m 'Begin'" in capsys.readouterr().out
    assert git(tmp_path, "status", "--porcelain") == "?? mine/\n"


def test_settings_are_composed_again_when_they_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(["params"])
    assert capsys.readouterr().out == "params.yaml is current\n"
    config = project / "conf/config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("\nseed: 0\n", "\nseed: 7\n"), encoding="utf-8")
    call(["params"])
    assert capsys.readouterr().out == "params.yaml written\n"
    assert "\nseed: 7\n" in (project / "params.yaml").read_text(encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    call(["params"])


def test_an_upgrade_is_written_and_its_settings_checked(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = files.project_files() | {"verify.yaml": "new: 1\n"}
    monkeypatch.setattr(files, "project_files", lambda: newer)
    call(["upgrade", "--write"])
    told = capsys.readouterr().out
    assert told.startswith("files of plumbline ")
    assert told.endswith("; left to you: 0\nparams.yaml is current\n")
    assert (project / "verify.yaml").read_text(encoding="utf-8") == "new: 1\n"


def test_an_upgrade_checks_settings_with_what_plugins_register(
    project: Path, monkeypatch: pytest.MonkeyPatch, own_plugins: None
) -> None:
    plugin = project / "plugins/of_this_test.py"
    plugin.write_text(
        "from plumbline.kinds.classification.settings import CLASS_LOSSES\n"
        "CLASS_LOSSES.register('of_this_test', 'plugins._none:loss')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(CLASS_LOSSES, "_entries", CLASS_LOSSES.entries())
    assert "of_this_test" not in CLASS_LOSSES
    call(["upgrade", "--write"])
    assert "of_this_test" in CLASS_LOSSES
    plugin.unlink()


def test_what_may_go_is_listed_and_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = project / ".ckpt/finetune@vqa"
    for name, step in (("aaaa", 4), ("bbbb", 9)):
        (states / name / f"step-{step}").mkdir(parents=True)
        (states / name / f"step-{step}/state").write_bytes(b"0" * 2_000_000)
    call(["gc"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["2.0", "MB", ".ckpt/finetune@vqa/aaaa"]  # the other came further
    assert lines[1].split(maxsplit=2) == ["2.0", "MB", "in all; plumbline gc --yes removes it"]
    assert (states / "aaaa").is_dir()


def test_what_a_killed_dvc_left_is_removed_and_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(["heal"])
    assert capsys.readouterr().out == ""
    left = project / ".dvc/cache/runs/ab" / ("ab" + "0" * 62)
    left.mkdir(parents=True)
    call(["heal"])
    assert capsys.readouterr().out.startswith(f"removed {left.relative_to(project)}: ")
    assert not left.exists()


def stand_in_for_dvc(folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: int) -> None:
    """Put a dvc into the path that notes what it is asked and ends with a code."""
    dvc = folder / "dvc"
    dvc.write_text(f'#!/bin/sh\necho "$@" > asked\nexit {code}\n', encoding="utf-8")
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_failed_repro_ends_with_the_code_of_dvc(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in_for_dvc(tmp_path, monkeypatch, code=5)
    with pytest.raises(SystemExit) as ended:
        call(["repro", "validate@scenes"])
    assert ended.value.code == 5
    assert (project / "asked").read_text(encoding="utf-8") == "repro validate@scenes\n"


def test_figures_that_are_not_there_yet_are_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in_for_dvc(tmp_path, monkeypatch, code=0)
    with pytest.raises(PlumblineError, match=r"work/evaluation/align/image: .* dvc repro"):
        call(["repro"])


def test_a_sweep_is_checked_and_its_table_shown_before_it_ran(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(["sweep", "vqa_lr", "--check"])
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="there is no such sweep"):
        call(["sweep", "nothing"])
    with pytest.raises(ConfigError, match="--jobs: 0: must be at least 1"):
        call(["sweep", "vqa_lr", "--jobs", "0"])
