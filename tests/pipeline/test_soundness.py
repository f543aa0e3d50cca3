"""What a stage really reads is what dvc.yaml declares, no more and no less (N01, N02).

Each stage runs twice: in a checkout with everything in place, and traced in a folder with its
declared inputs alone. Equal outputs mean that nothing else was read, by whatever library.
"""

import importlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plumbline.params import PACKAGES
from tests.pipeline.every_kind import every_kind, write_project
from tests.pipeline.sandbox import (
    Declared,
    declared_stages,
    digests,
    make_sandbox,
    trace,
    undeclared_reads,
)

IN_VERSIONS = {name.replace("_", "-"): name for name in PACKAGES}


@dataclass
class Run:
    """A stage, traced."""

    declared: Declared
    found: dict[str, Any]
    same: bool
    outs: int


@dataclass
class Traced:
    """All stages of a project, traced."""

    runs: list[Run] = field(default_factory=list)

    def of(self, stage: str) -> list[Run]:
        return [run for run in self.runs if run.declared.stage == stage]

    def union(self, stage: str, what: str) -> set[str]:
        return {item for run in self.of(stage) for item in run.found[what]}

    @property
    def stages(self) -> list[str]:
        return sorted({run.declared.stage for run in self.runs})


def run_traced(folder: Path, params: dict[str, Any]) -> Traced:
    """Run all stages of a project both ways."""
    checkout = folder / "project"
    write_project(checkout, params)
    traced = Traced()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        for declared in declared_stages(checkout):
            importlib.import_module(f"stages.{declared.stage}").main(declared.command[1:])
            sandbox = folder / declared.name
            make_sandbox(checkout, sandbox, declared)
            found = trace(sandbox, declared)
            expected = digests(checkout, declared.outs)
            same = digests(sandbox, declared.outs) == expected
            traced.runs.append(Run(declared, found, same, len(expected)))
    return traced


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    traced = run_traced(tmp_path_factory.mktemp("every"), every_kind())
    if place := os.environ.get("PLUMBLINE_TRACES"):
        Path(place).write_text(
            json.dumps([[r.declared.name, r.same, r.found] for r in traced.runs])
        )
    return traced


def test_dump(every: Traced) -> None:
    for run in every.runs:
        print(run.declared.name, run.same, run.outs, undeclared_reads(run.declared, run.found))
