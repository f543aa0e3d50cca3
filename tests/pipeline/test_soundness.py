"""What a stage really reads is what dvc.yaml declares, no more and no less.

Each stage runs twice: in a checkout with everything in place, and traced in a folder with its
declared inputs alone. Equal outputs mean that nothing else was read, by whatever library.
"""

import importlib
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from plumbline import paths
from plumbline.code_digest import BEHIND
from plumbline.files import read_json
from plumbline.params import PACKAGES
from plumbline.stages import digest_code
from plumbline.stages.specs import STAGES, specs
from tests.pipeline.checkout import ROOT, Checkout, make_checkout
from tests.pipeline.every_kind import every_kind, write_project
from tests.pipeline.harmless import HARMLESS
from tests.pipeline.sandbox import (
    Declared,
    StageFailed,
    covers,
    declared_stages,
    digests,
    make_sandbox,
    trace,
    undeclared_reads,
)

ALL = ("check_params", *STAGES)
PLUGINS = "plugins"

EMBEDDED = "data/.gitkeep"
"""The path of a dataset that is made up: there is nothing to read."""

READ_ELSEWHERE = {
    "LimitsConfig.": "by the bundle's own scripts, from its contract",
    "ServerConfig.": "by the bundle's own server, from server.json",
    "ExportModelConfig.kind": "to choose the schema, before there are settings to be read",
    "ScheduleConfig.options": "by the schedule of a plugin",
    "TrainerConfig.max_skipped_steps": "when a step is skipped",
    "TrainerConfig.timeout_s": "where several processes wait for each other",
    "LoaderConfig.timeout_s": "where a training waits for loader workers",
    "TrainerConfig.deterministic": "on a GPU",
}
"""Beginning of a field -> where it is read, though not in these runs."""


@dataclass
class Run:
    """A stage, traced."""

    declared: Declared
    found: dict[str, Any]
    expected: dict[str, str]
    written: dict[str, str]


@dataclass
class Traced:
    """The stages of a project, traced."""

    folder: Path
    runs: list[Run] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        return sorted({run.declared.stage for run in self.runs})

    def of(self, stage: str) -> list[Run]:
        return [run for run in self.runs if run.declared.stage == stage]

    def union(self, stage: str, what: str) -> set[str]:
        return {item for run in self.of(stage) for item in run.found[what]}

    def declared(self, stage: str, what: str) -> set[str]:
        return {item for run in self.of(stage) for item in getattr(run.declared, what)}


def run_traced(folder: Path, params: dict[str, Any]) -> Traced:
    """Run all stages of a project both ways."""
    checkout = folder / "project"
    write_project(checkout, params)
    traced = Traced(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        # What says what all stages declare.
        digest_code.main([])
        importlib.import_module("plumbline.stages.check_params").main([])
        for declared in declared_stages(checkout):
            importlib.import_module(f"stages.{declared.stage}").main(declared.command[1:])
            sandbox = folder / declared.name
            make_sandbox(checkout, sandbox, declared)
            found = trace(sandbox, declared)
            expected = digests(checkout, declared.outs)
            traced.runs.append(Run(declared, found, expected, digests(sandbox, declared.outs)))
    return traced


@pytest.fixture(
    scope="module",
    params=["data", pytest.param("every kind", marks=pytest.mark.slow)],
)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """One dataset alone, or every kind of source, task and stage."""
    params = every_kind()
    if request.param == "data":
        chosen = {"numbers": params["datasets"]["numbers"]}
        params |= {"datasets": chosen, "align": {}, "tasks": {}}
    return run_traced(tmp_path_factory.mktemp("traced"), params)


def test_no_stage_reads_what_it_does_not_declare(traced: Traced) -> None:
    undeclared = {
        run.declared.name: undeclared_reads(run.declared, run.found) for run in traced.runs
    }
    assert {name: reads for name, reads in undeclared.items() if reads} == {}


def test_no_stage_starts_a_program_whose_reads_are_not_seen(traced: Traced) -> None:
    # torch asks it where shared libraries are.
    assert {p for run in traced.runs for p in run.found["processes"]} <= {"ldconfig"}


def test_outputs_are_the_same_bytes_from_the_declared_inputs_alone(traced: Traced) -> None:
    differ = {
        run.declared.name: sorted(set(run.expected.items()) ^ set(run.written.items()))
        for run in traced.runs
        if run.expected != run.written
    }
    assert differ == {}
    assert all(run.expected for run in traced.runs)


def unseen(run: Run) -> list[str]:
    """Data that a stage declares and that nobody was seen to read."""
    seen = [*run.found["files"], *run.found["listed"]]
    return [
        place
        for place in run.declared.data
        if place != EMBEDDED and not any(covers((place,), file) for file in seen)
    ]


def test_every_declared_input_is_needed(traced: Traced, tmp_path: Path) -> None:
    """What was not seen to be read is taken away: a library that Python does not see reads it."""
    # What a selection leaves out, the report finds empty.
    whole = len(traced.stages) == len(ALL)
    checked = set()
    for run in traced.runs:
        for place in unseen(run) if whole or run.declared.stage != "report" else ():
            kind = (run.declared.stage, *place.split("/")[:2])
            if kind in checked:
                continue
            checked.add(kind)
            without = replace(run.declared, data=tuple(p for p in run.declared.data if p != place))
            sandbox = tmp_path / run.declared.name / place
            make_sandbox(traced.folder / "project", sandbox, without)
            try:
                trace(sandbox, run.declared)
            except StageFailed:
                continue
            assert digests(sandbox, run.declared.outs) != run.expected, place


def test_every_declared_module_is_loaded_by_some_run_with_that_code(traced: Traced) -> None:
    """For every stage, and every kind of task where that makes a difference."""
    if len(traced.stages) < len(ALL):
        pytest.skip("the settings of a single dataset need not load all")
    loaded: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for run in traced.runs:
        read = {*run.found["files"], *run.found["modules"].values()}
        loaded.setdefault((run.declared.stage, run.declared.code), set()).update(read)
    vain = {
        stage: sorted(set(code) - read - {f"{PLUGINS}/__init__.py"})
        for (stage, code), read in loaded.items()
        if set(code) - read
    }
    assert vain == {}


def test_every_declared_section_is_read_by_some_run_of_its_stage(traced: Traced) -> None:
    by_kind = {spec.name for spec in specs() if spec.schema_of_kind}
    unread = []
    for run in traced.runs:
        for key in run.declared.params:
            read = any(k == key or k.startswith(f"{key}.") for k in run.found["keys"])
            # The kind of a task chooses the schema, before there are settings to be read.
            chosen = run.declared.stage in by_kind and key.endswith(".kind")
            if not (read or chosen or key.startswith("versions.")):
                unread.append((run.declared.name, key))
    assert unread == []


def test_versions_are_those_of_the_libraries_that_stages_import(traced: Traced) -> None:
    names = {name.replace("_", "-"): name for name in PACKAGES}
    wrong = {}
    for stage in set(traced.stages) - {"check_params"}:
        used = {names[name] for name in traced.union(stage, "libraries") if name in names}
        used |= {other for name in used for other in BEHIND.get(name, ())} | {"python"}
        declared = {
            p.removeprefix("versions.")
            for p in traced.declared(stage, "params")
            if p.startswith("versions.")
        }
        if len(traced.stages) < len(ALL):
            declared &= used  # a library may be imported for other datasets alone
        if used != declared:
            wrong[stage] = {"undeclared": used - declared, "in vain": declared - used}
    assert wrong == {}


def test_libraries_without_a_version_in_the_key_are_known_to_be_harmless(traced: Traced) -> None:
    known = {*HARMLESS, *(name.replace("_", "-") for name in PACKAGES), "plumbline"}
    for stage in traced.stages:
        found = traced.union(stage, "libraries") | traced.union(stage, "indirect")
        assert found - known == set(), stage


def test_no_setting_is_dead(traced: Traced) -> None:
    if len(traced.stages) < len(ALL):
        pytest.skip("needs every kind of task")
    fields = {name for stage in traced.stages for name in traced.union(stage, "fields")}
    read = {name for stage in traced.stages for name in traced.union(stage, "fields_read")}
    dead = {name for name in fields - read if not name.startswith(tuple(READ_ELSEWHERE))}
    print(f"{len(fields)} settings, {len(read)} read")
    assert sorted(dead) == []


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, Declared]:
    """A project of which nothing has run but the check, and its stage `prepare`."""
    params = every_kind()
    params |= {"datasets": {"numbers": params["datasets"]["numbers"]}, "align": {}, "tasks": {}}
    checkout = write_project(tmp_path_factory.mktemp("prepared") / "project", params)
    checkout.run(sys.executable, "-m", "stages.digest_code")
    checkout.run(sys.executable, "-m", "stages.check_params")
    return checkout, next(d for d in declared_stages(checkout.folder) if d.stage == "prepare")


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ('open("note.txt").read()', "note.txt"),
        ("import stages.validate", "stages/validate.py"),
        ('Path("work/clean/x").read_bytes()', "work/clean/x"),
    ],
)
def test_an_undeclared_read_is_caught(
    prepared: tuple[Checkout, Declared], tmp_path: Path, line: str, caught: str
) -> None:
    checkout, declared = prepared
    sandbox = tmp_path / "sandbox"
    # Without the digest of its code, since a line is added to it.
    data = tuple(place for place in declared.data if not place.startswith("work/code"))
    whole = replace(declared, code=("src/plumbline", "stages", PLUGINS), data=data)
    make_sandbox(checkout.folder, sandbox, whole)
    (sandbox / "note.txt").write_text("x", encoding="utf-8")
    (sandbox / "work/clean").mkdir(parents=True)
    (sandbox / "work/clean/x").write_text("x", encoding="utf-8")
    script = sandbox / "src/plumbline/stages/prepare.py"
    text = script.read_text(encoding="utf-8")
    script.unlink()  # it is a link to the checkout's
    script.write_text(
        text.replace("    call = parse_call", f"    {line}\n    call = parse_call"),
        encoding="utf-8",
    )
    reads = undeclared_reads(declared, trace(sandbox, declared))
    assert caught in reads


def test_an_undeclared_setting_is_caught(
    prepared: tuple[Checkout, Declared], tmp_path: Path
) -> None:
    checkout, declared = prepared
    make_sandbox(checkout.folder, tmp_path / "sandbox", declared)
    found = trace(tmp_path / "sandbox", declared)
    less = replace(declared, params=tuple(p for p in declared.params if not p.endswith("prepare")))
    assert undeclared_reads(declared, found) == []
    assert "datasets.numbers.prepare.files" in undeclared_reads(less, found)


def test_a_stage_without_an_input_does_not_run(
    prepared: tuple[Checkout, Declared], tmp_path: Path
) -> None:
    checkout, declared = prepared
    less = replace(declared, code=tuple(c for c in declared.code if "sources" not in c))
    make_sandbox(checkout.folder, tmp_path / "sandbox", less)
    with pytest.raises(StageFailed, match=r"No module named 'plumbline\.sources"):
        trace(tmp_path / "sandbox", declared)


def test_what_plugins_import_becomes_part_of_the_code(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "project")
    file = checkout.folder / paths.code("prepare")
    found = []
    for folder in (None, ROOT / "docs/examples/plugins"):
        if folder:
            shutil.copytree(folder, checkout.folder / PLUGINS, dirs_exist_ok=True)
        checkout.run(sys.executable, "-m", "stages.digest_code")
        found.append(set(read_json(file)["files"]))
    assert "plumbline/training/schedule.py" in found[1] - found[0]
    assert {name for name in found[1] if name.startswith(f"{PLUGINS}/")}
