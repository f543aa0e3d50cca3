"""The files of the container name what exists. No engine runs here: the image itself is unbuilt."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
DEVCONTAINER = ROOT / ".devcontainer/devcontainer.json"
BUILTINS = {"FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile as (instruction, arguments), continued ones joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    split = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in split]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def devcontainer() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DEVCONTAINER.read_text(encoding="utf-8"))
    return read


def test_the_python_of_the_image_is_that_of_the_lock_and_of_ci() -> None:
    (base,) = (rest.split()[0] for rest in of("FROM") if ":" in rest)
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SpecifierSet(project["requires-python"]).contains(f"{version[1]}.0")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"--python-version {version[1]} " in makefile
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    used = {
        step["with"]["python-version"]
        for job in jobs.values()
        for step in job["steps"]
        if "setup-python" in step.get("uses", "")
    }
    assert used == {version[1]}


def test_everything_that_is_copied_or_run_is_there() -> None:
    assert {name for name, _ in instructions()} == BUILTINS
    for rest in of("COPY"):
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources), rest
    run = " && ".join([*of("RUN"), *(" ".join(json.loads(rest)) for rest in of("CMD"))])
    called = re.findall(r"\bmake ([a-z-]+)", run)
    assert called == ["setup", "repro"]
    assert set(called) <= targets()
    assert "requirements.lock" in run


def test_the_environment_is_where_make_looks_for_it() -> None:
    set_here = dict(rest.split("=", 1) for rest in of("ENV"))
    place = set_here["PLUMBLINE_VENV"]
    assert set_here["PATH"] == f"{place}/bin:$PATH"
    assert any(f"-m venv {place} " in rest for rest in of("RUN"))
    command = ["make", "--no-print-directory", "-pn", "help"]
    for given, expected in ((place, place), ("", f"{ROOT}/.venv")):
        environment = {"PATH": "/usr/bin:/bin", "PLUMBLINE_VENV": given}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert f"\nVENV := {expected}\n" in done.stdout
    settings = devcontainer()["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == f"{place}/bin/python"


def test_the_devcontainer_builds_a_stage_that_exists_and_makes_its_environment() -> None:
    found = devcontainer()
    build = found["build"]
    assert (DEVCONTAINER.parent / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (DEVCONTAINER.parent / build["context"]).resolve() == ROOT
    stages = [rest.rpartition(" AS ")[2] for rest in of("FROM")]
    assert build["target"] == stages[0] == "environment"
    assert found["postCreateCommand"] == "make setup"
    assert found["remoteUser"] == of("USER")[-1]
    assert found["workspaceFolder"] == of("WORKDIR")[-1]
    assert f"target={found['workspaceFolder']}," in found["workspaceMount"]


def ignored(file: str) -> list[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] not in "#!"]


def test_an_image_holds_what_git_tracks_and_nothing_else() -> None:
    lines = ignored(".dockerignore")
    # What is local to somebody's checkout: of Git's own list, and of DVC's.
    local = [line.strip("/") for line in ignored(".gitignore")]
    local += [f".dvc/{line.strip('/')}" for line in ignored(".dvc/.gitignore")]
    assert {line.removeprefix("**/") for line in lines} == set(local)
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line[0] == "!"
    ]
    left_out = [line.rstrip("/") for line in lines if "*" not in line]
    lost = [
        file
        for file in tracked
        if any(file == name or file.startswith(f"{name}/") for name in left_out)
    ]
    assert lost == []
    assert {"data/.gitkeep", "models/.gitkeep", "exports/.gitkeep"} <= {*kept, *tracked}
    folders = [line.removesuffix("/*") for line in lines if line.endswith("/*")]
    inside = {file for file in tracked if file.partition("/")[0] in folders}
    assert inside <= {*kept, *(file for file in tracked if file.endswith(".dvc"))}


@pytest.mark.parametrize("file", ["Dockerfile", ".devcontainer/devcontainer.json"])
def test_it_is_not_the_image_of_a_bundle(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "server.py" not in text
    assert "EXPOSE" not in text
