"""On a machine of another type than the record's: what it has made is used, and a line says so."""

import shutil
from pathlib import Path

import pytest

from plumbline.reproduction.own import adopt, describe
from tests.reproduction.conftest import dvc, git


@pytest.fixture
def elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project on a machine with a cache of its own, where `train` gives other bits."""
    dvc(project, "cache", "dir", "--local", str(project.parent / "own"))
    for made in ("work", "models"):
        shutil.rmtree(project / made)
    repro(project, monkeypatch, "train")
    return project


def repro(project: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("WRONG", wrong)
    dvc(project, "repro")
    monkeypatch.delenv("WRONG")


def test_with_the_record_of_another_machine_nothing_is_trained_again(elsewhere: Path) -> None:
    model, lock = elsewhere / "models/a/model.bin", elsewhere / "dvc.lock"
    own, made = lock.read_text(encoding="utf-8"), model.read_bytes()
    git(elsewhere, "checkout", "-q", "dvc.lock", "metrics")
    assert adopt(elsewhere) == ["train"]
    dvc(elsewhere, "repro")  # run again, `train` would give the record's bits
    assert model.read_bytes() == made
    assert lock.read_text(encoding="utf-8") == own
    assert adopt(elsewhere) == []


def test_a_lost_workspace_is_had_again_as_well(elsewhere: Path) -> None:
    model = elsewhere / "models/a/model.bin"
    made = model.read_bytes()
    git(elsewhere, "checkout", "-q", "dvc.lock", "metrics")
    for folder in ("work", "models"):
        shutil.rmtree(elsewhere / folder)
    assert adopt(elsewhere) == ["train"]
    dvc(elsewhere, "repro")
    assert model.read_bytes() == made


def test_a_lock_whose_outputs_are_there_or_nowhere_is_left_alone(project: Path) -> None:
    lock = (project / "dvc.lock").read_text(encoding="utf-8")
    assert adopt(project) == []
    dvc(project, "cache", "dir", "--local", str(project.parent / "empty"))
    assert adopt(project) == []
    assert (project / "dvc.lock").read_text(encoding="utf-8") == lock


def test_other_bits_are_said_with_what_to_commit(
    elsewhere: Path,
) -> None:
    assert describe(elsewhere) == (
        "this machine's results differ from the committed ones, first in models/a, in the last "
        "digits, as on any other type of processor; to make them this clone's own: git add "
        "dvc.lock metrics && git commit -m 'Record the results of this machine'"
    )
    git(elsewhere, "add", "dvc.lock", "metrics")
    git(elsewhere, "commit", "-qm", "Record the results of this machine")
    assert describe(elsewhere) is None


@pytest.mark.parametrize(
    ("wrong", "small"),
    [("measure=0.88", True), ("measure=0.5", False), ("rows", False)],
)
def test_what_rounding_does_not_explain_is_said_so(
    project: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, small: bool
) -> None:
    """The figure may move by 0.05; `rows` gives the same bytes everywhere."""
    dvc(project, "cache", "dir", "--local", str(project.parent / "own"))
    for made in ("work", "models", "metrics"):
        shutil.rmtree(project / made)
    repro(project, monkeypatch, wrong)
    said = describe(project)
    assert said is not None
    assert ("in the last digits" in said) == small
    assert ("see plumbline verify" in said) != small


def test_equal_results_and_changed_settings_say_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe(project) is None
    (project / "params.yaml").write_text("threads: 1\n", encoding="utf-8")
    repro(project, monkeypatch, "train")
    assert describe(project) is None


def test_another_python_brings_its_versions_along(project: Path) -> None:
    lock = project / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    assert "threads: 2" in text
    recorded = text.replace("threads: 2", "versions.python: '3.11'")
    lock.write_text(recorded, encoding="utf-8")
    git(project, "commit", "-qam", "Record under 3.11")
    model = recorded.partition("path: models/a\n")[2].split("md5: ")[1][:32]
    here = recorded.replace("'3.11'", "'3.12'").replace(model, "0" * 32)
    lock.write_text(here, encoding="utf-8")
    said = describe(project)
    assert said is not None
    assert "git add conf/versions.yaml params.yaml dvc.lock metrics &&" in said
    (project / "params.yaml").write_text("threads: 2\nversions: {}\n", encoding="utf-8")
    assert describe(project) is not None
    (project / "conf").mkdir()
    (project / "conf/optim.yaml").write_text("lr: 1\n", encoding="utf-8")
    git(project, "add", "conf")
    assert describe(project) is None
