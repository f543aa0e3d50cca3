"""A setting has one default: the files of conf/ that list all keys say what the schema says."""

from pathlib import Path

import yaml

from plumbline.validation.settings import ValidationConfig

ROOT = Path(__file__).resolve().parents[2]


def test_the_rules_for_rows_have_the_same_defaults_in_conf_and_in_the_schema() -> None:
    written = yaml.safe_load((ROOT / "conf/validate/rows.yaml").read_text(encoding="utf-8"))
    defaults = ValidationConfig(views={"all": ["text"]}).model_dump(mode="json", exclude={"views"})
    assert written == defaults
    assert defaults["max_dropped_share"] == 0.1
    assert defaults["split"]["test"] > 0  # evaluation wants a test split wherever none is given
