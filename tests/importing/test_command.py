"""`plumbline import` writes whole files once, and says what it did and what comes next."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from plumbline.cli.main import call
from plumbline.errors import ConfigError
from plumbline.importing.importer import name_of
from tests.importing import layouts
from tests.pipeline.checkout import ROOT
from tests.schema.validators import refusals


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(ROOT / "conf", folder / "conf")
    monkeypatch.chdir(folder)
    return folder


def written(project: Path) -> dict[str, bytes]:
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted((project / "conf").rglob("*.yaml"))
    }


def test_files_are_written_once_and_then_unchanged_or_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(project)
    data = project.parent / "photos"
    layouts.class_folders(data)
    call(["import", str(data)])
    said = capsys.readouterr().out
    files = [f"conf/{group}/photos.yaml" for group in ("datasets", "tasks", "experiment")]
    assert f"wrote {', '.join(files)}" in said
    assert said.endswith("train: plumbline run photos\n")
    after = written(project)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == set(files)
    call(["import", str(data)])
    assert f"unchanged: {', '.join(files)}" in capsys.readouterr().out
    assert written(project) == after
    edited = project / "conf/tasks/photos.yaml"
    edited.write_text(edited.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^conf/tasks/photos\.yaml: there already, .*--force"):
        call(["import", str(data)])
    assert edited.read_text(encoding="utf-8").endswith("# mine\n")
    call(["import", str(data), "--force"])
    assert written(project) == after


@pytest.mark.parametrize("make", [layouts.class_folders, layouts.images_and_csv])
def test_files_name_schemas_for_editors_which_take_them(
    project: Path, make: Callable[[Path], None]
) -> None:
    before, data = written(project), project.parent / "photos"
    make(data)
    call(["import", str(data)])
    files = [project / name for name in written(project) if name not in before]
    assert len(files) > 2
    for file in files:
        text = file.read_text(encoding="utf-8")
        # Hydra reads the package of the first line alone.
        assert text.startswith("# @package _global_\n") == (file.parent.name == "experiment")
        (line,) = [line for line in text.splitlines()[:2] if line.startswith("# yaml-language")]
        place = (file.parent / line.partition("$schema=")[2]).resolve()
        assert place == project / "schema" / f"{file.parent.name}.json"
        assert refusals(place.name, yaml.safe_load(text)) == []


def test_the_name_of_a_recipe_is_not_taken_over(project: Path) -> None:
    data = project.parent / "cifar10"
    layouts.class_folders(data)
    before = written(project)
    with pytest.raises(ConfigError, match=r"conf/datasets/cifar10\.yaml, .*another --name"):
        call(["import", str(data)])
    assert written(project) == before


def test_a_dry_run_says_the_same_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = project.parent / "photos"
    layouts.images_and_csv(data)
    before = written(project)
    call(["import", str(data), "--dry-run"])
    dry = capsys.readouterr().out
    assert "would write conf/datasets/photos.yaml, conf/align/photos.yaml" in dry
    assert written(project) == before
    call(["import", str(data)])
    assert capsys.readouterr().out.startswith(dry.partition("would write")[0])


def test_what_validation_would_reject_is_shown_and_nothing_written_where_it_would_fail(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = project.parent / "photos"
    layouts.class_folders(data)
    for number in (0, 2, 4, 6, 8, 10):
        file = next(data.glob(f"red/{number}*"))
        file.write_bytes(file.read_bytes()[:600])
    before = written(project)
    with pytest.raises(ConfigError, match=r"6 of 40 rows lost to faults.*nothing is written"):
        call(["import", str(data)])
    said = capsys.readouterr().out
    assert "6 rejected: bad_image" in said
    assert "red/0.JPG: " in said
    assert "1 files passed over: in no folder named for a label, the first: stray.jpg" in said
    assert written(project) == before
    call(["import", str(data), "--max-dropped", "0.5"])
    dataset = yaml.safe_load((project / "conf/datasets/photos.yaml").read_text(encoding="utf-8"))
    assert dataset["photos"]["validate"]["max_dropped_share"] == 0.5


def test_the_page_shows_pictures_and_needs_no_other_file(project: Path) -> None:
    data = project.parent / "photos"
    layouts.images_and_csv(data)
    (data / "captions.csv").write_text(
        (data / "captions.csv").read_text(encoding="utf-8").replace("red", "<script>x</script>"),
        encoding="utf-8",
    )
    call(["import", str(data)])
    page = (project / ".plumbline/import/photos.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == 10
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_the_page_plays_sounds(project: Path) -> None:
    data = project.parent / "clips"
    layouts.clips_and_csv(data)
    call(["import", str(data)])
    page = (project / ".plumbline/import/clips.html").read_text(encoding="utf-8")
    assert page.count('<audio controls src="data:audio/wav;base64,') == 10


def test_data_is_named_where_it_lies_and_copied_where_that_is_asked(project: Path) -> None:
    outside = project.parent / "photos"
    layouts.class_folders(outside)
    call(["import", str(outside)])
    dataset = yaml.safe_load((project / "conf/datasets/photos.yaml").read_text(encoding="utf-8"))
    assert dataset["photos"]["path"] == outside.as_posix()
    call(["import", str(outside), "--name", "mine", "--copy"])
    dataset = yaml.safe_load((project / "conf/datasets/mine.yaml").read_text(encoding="utf-8"))
    assert dataset["mine"]["path"] == "data/mine"
    copied = {
        path.relative_to(project / "data/mine") for path in (project / "data/mine").rglob("*")
    }
    assert copied == {path.relative_to(outside) for path in outside.rglob("*")}
    with pytest.raises(ConfigError, match="data/mine: there already"):
        call(["import", str(outside), "--name", "mine", "--copy"])


def test_names_of_columns_and_folders_cannot_reach_the_settings(project: Path) -> None:
    odd = "${oc.env:HOME}"
    data = project.parent / "$(touch x); rm -rf"
    rows = "".join(f"the text number {n},{'ab'[n % 2]}\n" for n in range(60))
    layouts.put(data / "t.csv", f"{odd},label\n{rows}")
    call(["import", str(data)])
    name = name_of(data)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
    from plumbline.config import compose_yaml

    composed = compose_yaml(project / "conf", "config", [f"experiment={name}"])
    assert composed["datasets"][name]["prepare"]["columns"]["text"] == odd  # type: ignore[index]
    assert composed["datasets"][name]["path"] == data.as_posix()  # type: ignore[index]


def test_outside_a_project_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="plumbline init makes a project"):
        call(["import", "somewhere"])


def test_the_same_data_gives_the_same_files(project: Path) -> None:
    for name in ("one", "two"):
        data = project.parent / name / "photos"
        layouts.images_and_csv(data)
        call(["import", str(data), "--name", name])
    for group in ("datasets", "align", "tasks", "experiment"):
        one, two = (
            (project / f"conf/{group}/{name}.yaml").read_text(encoding="utf-8").replace(name, "N")
            for name in ("one", "two")
        )
        assert one == two


def test_uneven_classes_are_said_and_weighed(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"a text of row {at},{'rare' if at % 30 == 0 else 'common'}" for at in range(600)]
    (tmp_path / "mails.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    call(["import", str(tmp_path / "mails.csv"), "--name", "mails"])
    said = capsys.readouterr().out
    assert "labels are imbalanced: 'common' has" in said
    assert "classes weighed to balance" in said
    task = yaml.safe_load((project / "conf/tasks/mails.yaml").read_text(encoding="utf-8"))
    assert task["mails"]["train"]["task"]["class_weights"] == "balanced"
