"""The table of kinds: every role is there, and what a plugin forgets is one line."""

import sys
from pathlib import Path

import pytest

from plumbline.errors import ConfigError
from plumbline.evaluation.config import EvaluationConfig
from plumbline.kind import KINDS, READ, Kind, known_kinds
from plumbline.plugins import load_plugins
from plumbline.training.task_config import TaskConfig

SRC = Path(__file__).parents[1] / "src/plumbline"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_plugins: None) -> Path:
    """An empty folder of plugins; what a test adds to the table of kinds goes with it."""
    monkeypatch.setattr(KINDS, "_entries", KINDS.entries())
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", known_kinds())
def test_every_kind_has_every_role_under_its_name(name: str) -> None:
    kind = known_kinds()[name]
    assert [role for role in READ if not kind.has(role)] == []
    for role in READ:
        assert hasattr(kind.role(role), READ[role])
    assert issubclass(kind.settings.task, TaskConfig)
    assert issubclass(kind.settings.evaluate, EvaluationConfig)
    assert set(kind.settings.starts_from) <= set(known_kinds())


def test_no_kind_imports_another() -> None:
    """What two share lies in `headed` and `language`, or lower."""
    sideways = []
    for name in known_kinds():
        others = set(known_kinds()) - {name}
        for file in (SRC / "kinds" / name).glob("*.py"):
            text = file.read_text(encoding="utf-8")
            sideways += [(file.name, o) for o in others if f"plumbline.kinds.{o}." in text]
    for shared in ("headed", "language"):
        for file in (SRC / "kinds" / shared).glob("*.py"):
            text = file.read_text(encoding="utf-8")
            sideways += [(file.name, o) for o in known_kinds() if f"plumbline.kinds.{o}." in text]
    assert sideways == []


def test_a_folder_with_settings_is_a_kind_that_is_imported_when_it_is_used(plugins: Path) -> None:
    for name in ("ranking", "_shared"):
        (plugins / name).mkdir()
        (plugins / name / "settings.py").write_text("OTHER = 1\n", encoding="utf-8")
    (plugins / "notes").mkdir()
    load_plugins(plugins)
    assert "ranking" in KINDS
    assert not {"_shared", "notes"} & set(KINDS)
    assert "plugins.ranking.settings" not in sys.modules
    with pytest.raises(ConfigError, match=r"ranking/settings\.py: has no SETTINGS"):
        _ = KINDS["ranking"].settings
    with pytest.raises(ConfigError, match="kind 'ranking' has no train: there is no plugins"):
        KINDS["ranking"].role("train")


def test_a_plugin_with_the_name_of_a_kind_is_refused(plugins: Path) -> None:
    (plugins / "vlm").mkdir()
    (plugins / "vlm/settings.py").touch()
    with pytest.raises(ConfigError, match="kind of task 'vlm' is registered twice"):
        load_plugins(plugins)
    assert KINDS["vlm"] == Kind("vlm", "plumbline.kinds.vlm")
