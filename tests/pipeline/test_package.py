"""The core as a package: a wheel, a project that it makes, and what an upgrade of it reruns."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.pipeline.checkout import ENVIRONMENT, ROOT, Checkout, make_checkout

OTHER_RULE = "\n\ndef _planted() -> int:\n    return 1\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer does."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = dist.glob("plumbline-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def project(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A project of the smoke preset that knows the core by the package alone."""
    # In front of the checkout that the environment has installed.
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    outside = Checkout(tmp_path_factory.mktemp("work"), environment)
    outside.run(sys.executable, "-m", "plumbline", "init", "mine")
    project = replace(outside, folder=outside.folder / "mine")
    project.replace("conf/config.yaml", "experiment: null", "experiment: smoke")
    project.run(sys.executable, "-m", "plumbline", "params")
    project.commit("Begin")
    return project


def test_the_wheel_has_every_file_of_the_core_and_of_a_project(installed: Path) -> None:
    core = ROOT / "src"
    ours = {p.relative_to(core) for p in core.rglob("*") if p.is_file()}
    ours = {path for path in ours if "__pycache__" not in path.parts}
    got = {p.relative_to(installed) for p in (installed / "plumbline").rglob("*") if p.is_file()}
    assert {p for p in got if "files" not in p.parts} == {p for p in ours if "files" not in p.parts}
    assert (installed / "plumbline/py.typed").is_file()


def test_a_project_has_the_settings_of_the_checkout(project: Checkout, tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    ours = yaml.safe_load((checkout.folder / "params.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load((project.folder / "params.yaml").read_text(encoding="utf-8")) == ours
    code = "import plumbline, pathlib; print(pathlib.Path(plumbline.__file__).parents[1])"
    used = project.run(sys.executable, "-c", code).stdout.strip()
    assert used == project.environment["PYTHONPATH"]


def test_a_change_in_the_package_reruns_the_stages_that_run_it(
    project: Checkout, installed: Path
) -> None:
    to_shapes = ("dvc", "repro", "detect_shapes@scenes")
    ran = project.stages_run(*to_shapes)
    assert [name.partition("@")[0] for name in ran][-3:] == ["prepare", "validate", "detect_shapes"]
    assert project.stages_run(*to_shapes) == ["digest_code"]
    module = installed / "plumbline/validation/validate.py"
    code = module.read_text(encoding="utf-8")
    module.write_text(f"{code}\n# A comment.\n", encoding="utf-8")
    assert project.stages_run(*to_shapes) == ["digest_code"]
    module.write_text(code + OTHER_RULE, encoding="utf-8")
    ran = project.stages_run(*to_shapes)
    module.write_text(code, encoding="utf-8")
    # Its rows are the same bytes, so nothing behind it runs; check_params reads all settings.
    assert ran == ["digest_code", "check_params", "validate@scenes"]


@pytest.mark.slow
def test_a_project_has_the_metrics_and_models_of_the_checkout(
    project: Checkout, tmp_path: Path
) -> None:
    """The whole pipeline both ways: 80 s."""
    checkout = make_checkout(tmp_path)
    for side in (project, checkout):
        side.run(sys.executable, "-m", "plumbline", "repro")
    for place in ("metrics/align/image.json", "metrics/tasks/vqa.json", "models/tasks/vqa"):
        one, other = project.folder / place, checkout.folder / place
        for file in [one] if one.is_file() else sorted(one.iterdir()):
            there = other if one.is_file() else other / file.name
            assert file.read_bytes() == there.read_bytes(), file
    assert project.stages_run("dvc", "repro") == ["digest_code"]
