"""The table of switches: every plain value is the default, and its test is there."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline.config import Config
from plumbline.evaluation.config import EvaluationConfig
from plumbline.export.config import ExportConfig
from plumbline.loading.loader_config import LoaderConfig
from plumbline.sweep.config import SweepConfig
from plumbline.training.config import TrainerConfig
from plumbline.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|.*\| `(tests/[\w/]+\.py)::(\w+)` \|$", PAGE, re.M)
SECTIONS: dict[str, type[Config]] = {
    "trainer": TrainerConfig,
    "loader": LoaderConfig,
    "sweep": SweepConfig,
    "export": ExportConfig,
    "evaluate": EvaluationConfig,
}


def default_of(setting: str) -> Any:
    section, *path = setting.split(".")
    model = SECTIONS[section]
    for name in path[:-1]:
        model = model.model_fields[name].default_factory  # type: ignore[assignment]
    return model.model_fields[path[-1]].default


def test_the_table_is_read() -> None:
    assert len(ROWS) == PAGE.count("::test_") > 10


@pytest.mark.parametrize(("setting", "plain", "file", "test"), ROWS)
def test_a_switch_is_off_by_default_and_held_by_a_test(
    setting: str, plain: str, file: str, test: str
) -> None:
    assert default_of(setting) == yaml.safe_load(plain)
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_speaks_of_the_version_that_is_packaged() -> None:
    assert f"## To {__version__}" in PAGE
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
