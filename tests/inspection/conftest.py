"""A project folder with a task for every form of `tests.tiny`, as inspection finds one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.tiny import CASES

if TYPE_CHECKING:
    from plumbline.inspection.target import Target
    from plumbline.loading.cache_reader import TrainingCache

    OpenTarget = Callable[..., Target]

TRAINER = {
    "precision": "fp32",
    "device": "cpu",
    "optim": {"lr": 1e-2, "weight_decay": 0.0},
    "schedule": {"name": "cosine", "warmup_steps": 5},
}


@pytest.fixture(scope="session")
def project(
    caches: Callable[[str], "TrainingCache"],
    aligned_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("project")
    params: dict[str, Any] = {"seed": 0, "threads": 1, "align": {}, "tasks": {}}
    for name, case in CASES.items():
        train = {"model": case.model, "task": case.task, "trainer": TRAINER}
        entry = {
            "data": case.data,
            "weights": "data/.gitkeep",
            "train": train | {"loader": {"batch_size": 6}, "freeze": []},
        }
        if case.kind == "alignment":
            params["align"][name] = entry
        else:
            params["tasks"][name] = {**entry, "kind": case.kind, "start": "models/align/image"}
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    (folder / "work/cache").mkdir(parents=True)
    for data in {case.data for case in CASES.values()} - {"clips"}:
        (folder / "work/cache" / data).symlink_to(caches(data).folder)
    (folder / "models/align").mkdir(parents=True)
    (folder / "models/align/image").symlink_to(aligned_folder)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def open_target(here: Path) -> "OpenTarget":
    from plumbline.inspection.target import open_target, read_call

    def opened(name: str, *overrides: str) -> "Target":
        return open_target(read_call(name, overrides))

    return opened


@pytest.fixture
def ask(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command line; the JSON that it prints."""
    from plumbline.cli.main import call

    def asked(*arguments: str) -> Any:
        call(["inspect", *arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return asked
