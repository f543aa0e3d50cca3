"""`plumbline verify BUNDLE`: the commits of a real repository of Git and DVC that made a bundle."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import CheckpointError, ConfigError
from plumbline.export.provenance import dvc_md5
from plumbline.files import dump_json, read_json, write_digests
from plumbline.reproduction.lock import read_lock
from plumbline.reproduction.rerun import call as output_of
from tests.reproduction.conftest import dvc, git

DVC_YAML = """
stages:
  export_model:
    foreach: {a: {}}
    do:
      cmd: python make.py
      deps:
        - work/code/export_model/k.json
        - work/settings/export_model/a.json
        - models/tasks/a
        - work/cache/d
      outs: [exports/a]
"""

# What the stage does of it, with the functions that it calls.
MAKE = """
from pathlib import Path
from plumbline.export.provenance import describe_provenance
from plumbline.files import dump_json, write_digests
inputs = {
    "data": Path("work/cache/d"),
    "settings": Path("work/settings/export_model/a.json"),
    "code": Path("work/code/export_model/k.json"),
    "model": Path("models/tasks/a"),
}
out = Path("exports/a")
out.mkdir(parents=True)
made = describe_provenance("export_model@a", inputs).model_dump(mode="json")
(out / "metadata.json").write_text(dump_json({"provenance": made}))
(out / "server.json").write_text("{}")
(out / "weights").write_text(Path("models/tasks/a/weights").read_text())
write_digests(out)
"""

INPUTS = {
    "data": "work/cache/d/images.bin",
    "settings": "work/settings/export_model/a.json",
    "code": "work/code/export_model/k.json",
    "model": "models/tasks/a/weights",
}


def write(folder: Path, name: str, text: str) -> None:
    file = folder / INPUTS[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if name in ("data", "model"):
        (file.parent / "inner").mkdir(exist_ok=True)
        (file.parent / "inner/ä b.txt").write_text("x", encoding="utf-8")
        write_digests(file.parent)


def commit(folder: Path, subject: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", subject)
    return output_of(folder, "git", "rev-parse", "HEAD").strip()


@dataclass(frozen=True)
class History:
    folder: Path
    commits: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Runs of first settings, second ones, and a change of the README behind each."""
    folder = tmp_path_factory.mktemp("history") / "checkout"
    folder.mkdir()
    files = {
        "dvc.yaml": DVC_YAML,
        "make.py": MAKE,
        ".gitignore": "/work\n/models\n/exports\n/kept\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q")
    dvc(folder, "init")
    commits: dict[str, str] = {}
    for name in INPUTS:
        write(folder, name, f"{name} 1")
    for turn in ("first", "second"):
        write(folder, "settings", f"settings {turn}")
        dvc(folder, "repro")
        shutil.copytree(folder / "exports/a", folder / "kept" / turn)
        commits[turn] = commit(folder, f"Export with {turn} settings")
        (folder / "README.md").write_text(turn, encoding="utf-8")
        commits[f"after {turn}"] = commit(folder, "Write\tof it\x1b[2J")
    return History(folder, commits)


@pytest.fixture
def history(made: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    folder = tmp_path / "checkout"
    shutil.copytree(made.folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return History(folder, made.commits)


def verify(bundle: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = 0
    try:
        call(["verify", str(bundle), *options])
    except SystemExit as end:
        code = int(str(end.code))
    return code, capsys.readouterr().out


def found(out: str, history: History) -> list[str]:
    """Names of the commits that are listed, in their order."""
    names = {id[:12]: name for name, id in history.commits.items()}
    words = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    return [names[word] for word in words if word in names]


def test_a_folder_has_the_digest_that_dvc_gives_it(history: History) -> None:
    entry = read_lock(history.folder / "dvc.lock")["export_model@a"]
    known = {**entry.deps, **entry.outs}
    assert {path: dvc_md5(Path(path)) for path in known} == known
    assert len(known) == 5


def test_the_commits_are_found_whose_lock_names_what_made_a_bundle(
    history: History, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for turn in ("first", "second"):
        elsewhere = tmp_path / turn
        shutil.move(history.folder / "kept" / turn, elsewhere)
        code, out = verify(elsewhere, capsys)
        assert (code, found(out, history)) == (0, [f"after {turn}", turn])
        assert "every file is as it was exported" in out
        assert "other bytes" not in out
        assert "\x1b" not in out, "a subject would move the cursor of a terminal"


def test_a_commit_of_another_branch_is_found(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    git(history.folder, "branch", "old", history.commits["first"])
    git(history.folder, "checkout", "-q", "--orphan", "new")
    git(history.folder, "rm", "-q", "--cached", "dvc.lock")
    commit_without_lock = ["commit", "-qm", "Begin anew", "--allow-empty"]
    git(history.folder, *commit_without_lock)
    code, out = verify(Path("kept/first"), capsys)
    assert (code, found(out, history)) == (0, ["after first", "first"])


def test_a_project_in_a_folder_of_its_repository_is_found(
    history: History, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = history.folder / "inner"
    inner.mkdir()
    git(history.folder, "mv", "dvc.lock", "inner/dvc.lock")
    last = commit(history.folder, "Move the project")
    monkeypatch.chdir(inner)
    code, out = verify(history.folder / "kept/second", capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")][4:] == [
        last[:12]
    ]


@pytest.mark.parametrize("name", INPUTS)
def test_a_digest_that_no_commit_has_is_named(
    history: History, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write(history.folder, name, "never committed")
    dvc(history.folder, "repro")
    git(history.folder, "checkout", "-q", "dvc.lock")
    code, out = verify(Path("exports/a"), capsys)
    assert code == 1
    assert "no commit of 4 with a dvc.lock matches" in out
    head = history.commits["after second"][:12]
    said = {line.split()[0].rstrip(":"): line for line in out.splitlines()[-4:]}
    assert said.pop(name) == f"  {name}: in none"
    assert [f"last in {head}" in line for line in said.values()] == [True] * 3
    # Once it is recorded it is found.
    dvc(history.folder, "repro")
    last = commit(history.folder, "Record it")
    code, out = verify(Path("exports/a"), capsys)
    assert (code, last[:12] in out) == (0, True)


def test_digests_that_no_lock_has_together_are_no_match(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    write(history.folder, "code", "code 2")
    dvc(history.folder, "repro")
    commit(history.folder, "Other code")
    write(history.folder, "settings", "settings first")
    dvc(history.folder, "repro")
    git(history.folder, "checkout", "-q", "dvc.lock")
    code, out = verify(Path("exports/a"), capsys)
    assert code == 1
    assert out.splitlines()[-1] == "  each is in some, but all are together in none"
    assert f"settings: last in {history.commits['after first'][:12]}" in out


def test_a_bundle_of_other_bytes_than_the_recorded_is_told(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = history.folder / "kept/first"
    (bundle / "weights").write_text("tampered, with digests that fit", encoding="utf-8")
    write_digests(bundle)
    code, out = verify(bundle, capsys)
    assert code == 0
    assert out.count("(the bundle that it records has other bytes)") == 2


def test_a_changed_file_is_refused_and_settings_of_the_server_are_not(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = history.folder / "kept/first"
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    assert "other bytes" not in verify(bundle, capsys)[1]
    (bundle / "server.json").write_text('{"port": 1}', encoding="utf-8")
    code, out = verify(bundle, capsys)
    assert (code, found(out, history)) == (0, ["after first", "first"])
    assert "note: server.json was changed after the export, as it may be" in out
    assert "note: 1 file that digests.json does not name (notes.txt)" in out
    (bundle / "weights").write_text("tampered", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"weights: its bytes changed after it was written"):
        verify(bundle, capsys)


def test_what_is_looked_at_has_a_limit_and_says_so(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = verify(Path("kept/first"), capsys, "--limit", "2")
    assert code == 1
    assert "there are older commits: --limit looks at more" in out
    code, out = verify(Path("kept/first"), capsys, "--limit", "4")
    assert (code, found(out, history)) == (0, ["after first", "first"])


def test_a_lock_that_is_none_is_passed_over(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    (history.folder / "dvc.lock").write_text("<<<<<<< export_model@a", encoding="utf-8")
    commit(history.folder, "Merge badly")
    code, out = verify(Path("kept/second"), capsys)
    assert (code, found(out, history)) == (0, ["after second", "second"])


def test_a_bundle_of_a_stage_run_by_hand_says_what_it_does_not_name(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = history.folder / "kept/first"
    metadata = read_json(bundle / "metadata.json")
    del metadata["provenance"]["made_of"]["settings"]
    (bundle / "metadata.json").write_text(dump_json(metadata), encoding="utf-8")
    write_digests(bundle)
    code, out = verify(bundle, capsys)
    assert code == 1
    assert "settings: the bundle does not name it" in out


def test_what_is_no_bundle_is_one_line(
    history: History, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"exports: no bundle \(it has no metadata\.json"):
        verify(Path("exports"), capsys)
    with pytest.raises(ConfigError, match=r"--runs and exports/a: a bundle is compared"):
        verify(Path("exports/a"), capsys, "--runs", "2")
    with pytest.raises(ConfigError, match=r"--limit: is for a bundle; name its folder"):
        call(["verify", "--limit", "3"])
    bundle = history.folder / "kept/first"
    damaged = {"stage": "export_model@a", "made_of": {"code": {"path": "x", "md5": "y"}}}
    for said, message in (
        (None, "names no digests of what made it; it is of an older plumbline"),
        (damaged, r"provenance\.made_of\.code\.md5: "),
    ):
        (bundle / "metadata.json").write_text(dump_json({"provenance": said}), encoding="utf-8")
        write_digests(bundle)
        with pytest.raises(CheckpointError, match=message):
            verify(bundle, capsys)


def test_outside_of_a_clone_it_says_where_to_go(
    history: History,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no commits to look at .*; go to a clone"):
        verify(history.folder / "kept/first", capsys)
