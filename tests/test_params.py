"""params.yaml is what conf/ composes to under the installed libraries, or it is refused."""

import re
import shutil
from pathlib import Path

import pytest

from plumbline import params
from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.params import (
    HEADER,
    PACKAGES,
    check_environment,
    check_params,
    compose_params,
    entries_of,
    installed_versions,
    read_params,
    write_params,
)

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the repository's own conf/ and a current params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CONF, tmp_path / "conf")
    write_params(tmp_path, compose_params(tmp_path))
    return tmp_path


def test_what_conf_composes_to_is_accepted(root: Path) -> None:
    check_params(root, read_params(root))
    check_environment(read_params(root))


def test_params_hold_a_warning_not_to_edit_them(root: Path) -> None:
    assert (root / "params.yaml").read_text(encoding="utf-8").startswith(HEADER)


def test_writing_the_same_params_again_changes_nothing(root: Path) -> None:
    before = (root / "params.yaml").stat()
    assert not write_params(root, compose_params(root))
    assert (root / "params.yaml").stat().st_mtime_ns == before.st_mtime_ns
    assert write_params(root, {"seed": 1})


def test_an_edit_in_conf_makes_params_stale_and_the_difference_is_told(root: Path) -> None:
    config = root / "conf/config.yaml"
    seed = read_params(root)["seed"]
    config.write_text(
        config.read_text(encoding="utf-8").replace(f"seed: {seed}", f"seed: {seed + 1}"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        check_params(root, read_params(root))
    text = str(caught.value)
    assert text.startswith("params.yaml is stale: seed: ")
    assert re.search(rf"\b{seed}\b.*\b{seed + 1}\b.*conf/", text)
    assert "plumbline params" in text
    assert "\n" not in text


def test_a_hand_edit_of_params_is_refused_key_by_key(root: Path) -> None:
    present = read_params(root)
    del present["seed"]
    present |= {"threads": present["threads"] + 1, "extra_a": 1, "extra_b": {}, "extra_c": None}
    with pytest.raises(ConfigError) as caught:
        check_params(root, present)
    text = str(caught.value)
    assert re.search(r"extra_a: .*\b1\b.*'nothing'.*; extra_b: .*\{\}.*'nothing'", text)
    assert "(and 2 more)" in text


def test_a_key_that_params_lack_is_told(root: Path) -> None:
    present = read_params(root)
    seed = present.pop("seed")
    with pytest.raises(ConfigError, match=rf"seed: .*'nothing'.*\b{seed}\b"):
        check_params(root, present)


def test_the_versions_are_those_of_the_installed_libraries(root: Path) -> None:
    import torch

    versions = read_params(root)["versions"]
    assert list(versions) == sorted(PACKAGES) == list(PACKAGES)
    assert versions["torch"] == torch.__version__.split("+")[0]


def test_another_version_of_a_library_is_refused(root: Path) -> None:
    present = read_params(root)
    present["versions"]["torch"] = "1.0.0"
    with pytest.raises(ConfigError, match=r"versions\.torch = '1\.0\.0', but \S+ is installed"):
        check_environment(present)
    with pytest.raises(ConfigError, match=rf"versions\.{PACKAGES[0]} = None"):
        check_environment({"versions": {}})


def test_an_absent_library_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "PACKAGES", ("numpy", "no-such-library-here"))
    assert installed_versions()["no-such-library-here"] == "absent"


def test_stale_versions_are_refreshed_when_composing(root: Path) -> None:
    file = root / "conf/versions.yaml"
    current = file.read_text(encoding="utf-8")
    file.write_text("versions: {torch: 1.0.0}\n", encoding="utf-8")
    assert compose_params(root)["versions"] == installed_versions()
    assert file.read_text(encoding="utf-8") == current


def test_missing_params_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run plumbline params"):
        read_params(tmp_path)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_composes(root: Path, name: str) -> None:
    composed = compose_yaml(root / "conf", "config", [f"experiment={name}"])
    assert composed["datasets"]


@pytest.mark.parametrize("group", ["datasets", "align", "tasks"])
def test_an_empty_selection_leaves_an_empty_mapping(root: Path, group: str) -> None:
    assert compose_yaml(root / "conf", "config", [f"{group}=[]"])[group] == {}


def test_a_section_of_entries_is_a_mapping_or_empty() -> None:
    assert entries_of({"tasks": {"vqa": {}}}, "tasks") == {"vqa": {}}
    assert entries_of({"tasks": None}, "tasks") == entries_of({}, "tasks") == {}
    with pytest.raises(ConfigError, match=r"tasks = \['vqa'\]: a mapping"):
        entries_of({"tasks": ["vqa"]}, "tasks")
