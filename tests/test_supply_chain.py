"""What is installed and run from outside is named by its digest."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRA = tuple(f"requirements-{extra}.lock" for extra in ("cluster", "docs", "gs", "hub", "wandb"))
"""Of extras that are no part of the environment."""
LINE = re.compile(r"^([A-Za-z0-9._-]+)(\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)


def locked(file: str = "requirements.lock") -> dict[str, tuple[str, int]]:
    """Name -> version and number of digests, of all that a lock names."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = list(LINE.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return {
        canonicalize_name(match[1]): (
            match[3],
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text[match.end() : end])),
        )
        for match, end in zip(found, ends, strict=True)
    }


def test_every_locked_package_has_digests() -> None:
    packages = locked()
    assert len(packages) > 200
    assert [name for name, (_, digests) in packages.items() if not digests] == []


def test_the_lock_holds_what_the_project_needs_in_a_version_that_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # DeepSpeed comes as source alone, and no digest holds what its build would fetch and run.
    optional = project["optional-dependencies"].items()
    extras = [names for extra, names in optional if extra != "deepspeed"]
    wanted = [*project["dependencies"], *(text for extra in extras for text in extra)]
    locks = [locked(file) for file in (*EXTRA, "requirements.lock")]
    packages = {name: entry for lock in locks for name, entry in lock.items()}
    for requirement in map(Requirement, wanted):
        version, _ = packages[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("file", EXTRA)
def test_the_lock_of_an_extra_goes_with_that_of_the_project(file: str) -> None:
    packages, extra = locked(), locked(file)
    assert [name for name, (_, digests) in extra.items() if not digests] == []
    differ = {name for name in packages.keys() & extra.keys() if packages[name] != extra[name]}
    assert len(packages.keys() & extra.keys()) > 10
    assert differ == set()


def workflows() -> dict[str, Any]:
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def test_actions_are_named_by_commit() -> None:
    used = [
        step["uses"]
        for workflow in workflows().values()
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "uses" in step
    ]
    assert len(used) > 5
    assert [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)] == []


def test_the_slow_tests_and_an_audit_run_on_a_schedule_and_nothing_may_write() -> None:
    scheduled = workflows()["scheduled"]
    assert scheduled[True]["schedule"]  # YAML 1.1 reads `on` as true
    commands = [
        step["run"] for job in scheduled["jobs"].values() for step in job["steps"] if "run" in step
    ]
    assert "make test-all" in commands
    assert any("pip-audit" in command and "requirements.lock" in command for command in commands)
    assert {str(w["permissions"]) for w in workflows().values()} == {"{'contents': 'read'}"}
