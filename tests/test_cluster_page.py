"""The cluster file of docs/cluster.md is one that Ray takes, and starts what the lock installs."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")


@pytest.fixture
def cluster() -> Any:
    (block,) = re.findall(r"```yaml\n(# cluster\.yaml\n.*?)```", PAGE, re.DOTALL)
    return yaml.safe_load(block)


def test_ray_takes_the_cluster_file(cluster: Any) -> None:
    ray = pytest.importorskip("ray")
    schema = Path(ray.__file__).parent / "autoscaler/ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text(encoding="utf-8")))
    assert f"ray[default]=={version('ray')}" in PAGE


def test_every_start_of_the_page_reports_nothing_to_anybody(cluster: Any) -> None:
    starts = [
        line for line in PAGE.splitlines() if re.search(r"\bray start --(head|address)", line)
    ]
    assert len(starts) == 4
    assert all("RAY_USAGE_STATS_ENABLED=0" in line for line in starts)


def test_the_lock_of_the_extra_holds_ray() -> None:
    lock = (ROOT / "requirements-cluster.lock").read_text(encoding="utf-8")
    assert re.search(r"^ray==2\.\d+\.\d+ \\$", lock, re.MULTILINE)
