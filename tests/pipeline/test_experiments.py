"""Every recipe composes to settings that all stages accept."""

from pathlib import Path

import pytest

from plumbline.config import compose_yaml
from plumbline.stages.check_params import check_settings

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_to_valid_settings(name: str) -> None:
    params = compose_yaml(CONF, "config", [f"experiment={name}"])
    check_settings(params)
    assert params["align"] or params["tasks"]


def test_every_recipe_is_in_the_docs() -> None:
    text = (CONF.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in EXPERIMENTS if f"`{name}`" not in text] == ["pretrained"]
