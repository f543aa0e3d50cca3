"""Every parameter and every module, changed once: the stages that read it rerun, no other.

Expected is what follows from the stages' own settings, imports and inputs; found is what DVC says.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from stages.check_params import specs
from tests.pipeline.checkout import ROOT, Checkout, make_checkout
from tests.pipeline.dvc_graph import Graph, write_placeholders
from tests.pipeline.every_kind import every_kind, leaves, put, write_project
from tools import code_deps

CHECK = "check_params"
"""It reads all of params.yaml."""


def other(value: Any) -> Any:
    """A value that is not `value`, of its type where that is possible."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return [*value, "x"]
    return {"x": 1} if isinstance(value, dict) else "x"


def runs(params: dict[str, Any]) -> dict[str, set[str]]:
    """Stage with its key -> the dotted keys that it reads, by what its own module says."""
    found = {}
    for spec in specs():
        for key in params[spec.group] if spec.group else [""]:
            read = set(spec.sections(key).values())
            read |= {f"versions.{name}" for name in code_deps.libraries(spec.name)}
            found[f"{spec.name}@{key}" if key else spec.name] = read
    return found


def below(key: str, places: set[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def mutate_params(graph: Graph, key: str, value: Any) -> set[str]:
    """Stages that DVC would rerun with another value at `key`."""
    file = graph.folder / "params.yaml"
    text = file.read_bytes()
    before = leaves(graph.params)[key]
    put(graph.params, key, value)
    try:
        file.write_text(json.dumps(graph.params), encoding="utf-8")
        return graph.invalidated_by_params()
    finally:
        put(graph.params, key, before)
        file.write_bytes(text)


def mutate_file(graph: Graph, file: Path) -> set[str]:
    """Stages that DVC would rerun with another line at the end of a file of code."""
    path = graph.folder / file
    text = path.read_bytes()
    try:
        path.write_bytes(text + b"\n# Changed.\n")
        return graph.invalidated_by_files()
    finally:
        path.write_bytes(text)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Every kind of task; outputs are placeholders, since nothing is run."""
    params = every_kind()
    checkout = write_project(tmp_path_factory.mktemp("mutations") / "project", params)
    return Graph(checkout, params)


def test_nothing_is_invalidated_without_an_edit(graph: Graph) -> None:
    assert graph.invalidated_by_params() == set()
    assert graph.invalidated_by_files(code_only=False) == set()
    assert len(graph.stages) > 50


def test_every_parameter_invalidates_the_stages_that_read_it_and_no_other(graph: Graph) -> None:
    reads = runs(graph.params)
    wrong = {}
    keys = leaves(graph.params)
    for key, value in keys.items():
        expected = {name for name, places in reads.items() if below(key, places)} | {CHECK}
        found = mutate_params(graph, key, other(value))
        if found != expected:
            wrong[key] = {"missing": expected - found, "too many": found - expected}
    print(f"{len(keys)} parameters, {len(wrong)} wrong")
    assert wrong == {}
    assert len(keys) > 1000


def code_files(root: Path) -> list[Path]:
    """Every module of ours and every template."""
    return sorted(
        path.relative_to(root)
        for place in code_deps.TOPS.values()
        for path in (root / place).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parts[-2] != "plugins"
    )


def test_every_module_invalidates_the_stages_that_import_it_and_no_other(graph: Graph) -> None:
    names = {name.partition("@")[0] for name in graph.stages}
    closures = {name: code_deps.stage_closure(name) for name in names}
    files = code_files(graph.folder)
    wrong = {}
    for file in files:
        expected = {s for s in graph.stages if file in closures[s.partition("@")[0]]}
        found = mutate_file(graph, file)
        if found != expected:
            wrong[file.as_posix()] = {"missing": expected - found, "too many": found - expected}
    modules = [file for file in files if file.suffix == ".py"]
    print(f"{len(modules)} modules and {len(files) - len(modules)} templates, {len(wrong)} wrong")
    assert wrong == {}
    assert len(modules) > 200


def test_a_new_entry_makes_its_own_stages_and_changes_the_report_alone(graph: Graph) -> None:
    """The others keep their keys."""
    file = graph.folder / "params.yaml"
    text = file.read_bytes()
    graph.params["datasets"]["another"] = graph.params["datasets"]["scenes"]
    try:
        file.write_text(json.dumps(graph.params), encoding="utf-8")
        assert graph.invalidated_by_params() == {CHECK, "report"}
        new = graph.resolved()
    finally:
        del graph.params["datasets"]["another"]
        file.write_bytes(text)
    data_stages = ("prepare", "validate", "detect_shapes", "tokenize_text")
    assert new - set(graph.stages) == {f"{name}@another" for name in data_stages}
    assert set(graph.stages) <= new


def flow(params: dict[str, Any]) -> set[tuple[str, str]]:
    """(stage, stage whose output it reads), from what the stages do."""
    edges = {
        ("report", name) for name in runs(params) if not name.startswith(("prepare", "report"))
    }
    for name in params["datasets"]:
        edges |= {
            (f"prepare@{name}", CHECK),
            (f"validate@{name}", f"prepare@{name}"),
            (f"detect_shapes@{name}", f"validate@{name}"),
            (f"tokenize_text@{name}", f"validate@{name}"),
            (f"tokenize_text@{name}", f"detect_shapes@{name}"),
        }
    for group, stages in (
        ("align", ("pretrain_alignment", "evaluate_alignment")),
        ("tasks", ("finetune", "evaluate_model", "export_model")),
    ):
        for name, entry in params[group].items():
            edges |= {(f"{stage}@{name}", f"tokenize_text@{entry['data']}") for stage in stages}
            edges |= {(f"{stage}@{name}", f"{stages[0]}@{name}") for stage in stages[1:]}
    for name, entry in params["tasks"].items():
        start = str(entry["start"])
        if start.startswith("models/align/"):
            edges.add((f"finetune@{name}", f"pretrain_alignment@{Path(start).name}"))
    return edges


def test_a_stage_waits_for_those_whose_outputs_it_reads_and_for_no_other(graph: Graph) -> None:
    assert graph.edges() == flow(graph.params)


def test_only_names_of_data_and_starts_are_part_of_the_graph() -> None:
    """So another value of any other key leaves the stages and their inputs as they are."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{([^}]+)\}", text))
    assert used == {"datasets", "align", "tasks", "key", "item.path", "item.data", "item.start"}


EDITS = {
    "seed": {CHECK, "pretrain_alignment@image", "finetune@vqa"},
    "tasks.vqa.train.trainer.optim.lr": {CHECK, "finetune@vqa", "report"},
    "tasks.vqa.start": {CHECK, "finetune@vqa", "report"},
    "align.image.data": {CHECK, "pretrain_alignment@image", "evaluate_alignment@image", "report"},
    "datasets.scenes.path": {CHECK, "prepare@scenes", "report"},
    "versions.onnx": {CHECK, "export_model@vqa"},
    "src/plumbline/losses/contrastive.py": {"pretrain_alignment@image"},
    "src/plumbline/export/templates/server.py": {"export_model@vqa"},
    "src/plumbline/tracking/record.py": set(),
    "src/plumbline/report/templates/report.css": {"report"},
}
"""Key or file -> what `dvc status` says of the smoke preset when it is edited."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The smoke preset with placeholders as outputs, and a dvc.lock that says they are current."""
    checkout = make_checkout(tmp_path_factory.mktemp("locked") / "project")
    write_placeholders(Repo(str(checkout.folder)).index.stages)
    checkout.run("dvc", "commit", "--force")
    return checkout


def test_the_command_gives_the_answer_that_is_asked_here_in_process(locked: Checkout) -> None:
    params = yaml.safe_load((locked.folder / "params.yaml").read_text(encoding="utf-8"))
    graph = Graph(locked, params)
    for edited, expected in EDITS.items():
        path = locked.folder / (edited if "/" in edited else "params.yaml")
        text = path.read_bytes()
        if "/" in edited:
            assert mutate_file(graph, Path(edited)) == expected
            path.write_bytes(text + b"\n# Changed.\n")
        else:
            value = other(leaves(params)[edited])
            assert mutate_params(graph, edited, value) == expected
            changed = yaml.safe_load(text)
            put(changed, edited, value)
            path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
        status = json.loads(locked.run("dvc", "status", "--json").stdout)
        path.write_bytes(text)
        assert set(status) == expected, edited
    assert json.loads(locked.run("dvc", "status", "--json").stdout) == {}
