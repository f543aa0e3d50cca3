"""Every parameter and every module, changed once: the stages that read it rerun, no other.

Expected is what follows from the stages' own settings and code; found is which of the files differ
that they depend on.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from plumbline import paths
from plumbline.stages.check_params import write_settings
from plumbline.stages.specs import specs
from tests.pipeline.checkout import ROOT, Checkout, make_checkout
from tests.pipeline.dvc_graph import CHECK, CODE, Graph, write_placeholders
from tests.pipeline.every_kind import every_kind, leaves, put, write_project

pytestmark = pytest.mark.no_cover
"""The same few functions thousands of times, which coverage makes three times as slow."""


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


def runs(graph: Graph) -> dict[str, set[str]]:
    """Stage with its key -> the dotted keys that it reads, by what its own module says."""
    found = {}
    for spec in specs():
        for key in graph.params[spec.group] if spec.group else [""]:
            name = f"{spec.name}@{key}" if key else spec.name
            found[name] = set(spec.sections(key).values())
            found[name] |= {f"versions.{library}" for library in graph.libraries(name)}
    return found


def below(key: str, places: set[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def mutate_params(graph: Graph, key: str, value: Any) -> set[str]:
    """Stages that would rerun with another value at `key`."""
    before = leaves(graph.params)[key]
    put(graph.params, key, value)
    try:
        return graph.invalidated_by_params()
    finally:
        put(graph.params, key, before)


COMMENT, STATEMENT = b"\n# Changed.\n", b"\n_CHANGED = 1\n"


def mutate_files(graph: Graph, files: Sequence[Path], line: bytes) -> set[str]:
    """Stages that would rerun with another line at the end of files of code, all at once."""
    texts = {graph.folder / file: (graph.folder / file).read_bytes() for file in files}
    try:
        for path, text in texts.items():
            path.write_bytes(text + line)
        return graph.invalidated_by_files()
    finally:
        for path, text in texts.items():
            path.write_bytes(text)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Every kind of task; outputs are placeholders, since nothing is run."""
    params = every_kind()
    checkout = write_project(tmp_path_factory.mktemp("mutations") / "project", params)
    return Graph(checkout, params)


def test_nothing_is_invalidated_without_an_edit(graph: Graph) -> None:
    assert graph.invalidated_by_params() == {CHECK}  # that params.yaml differs is presumed
    assert graph.invalidated_by_files() == {CODE}
    assert len(graph.stages) > 50


def test_every_parameter_invalidates_the_stages_that_read_it_and_no_other(graph: Graph) -> None:
    reads = runs(graph)
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
        for place in ("src/plumbline", "stages", "plugins")
        for path in (root / place).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parts[-2] != "plugins"
    )


def test_every_module_invalidates_the_stages_that_run_it_and_no_other(graph: Graph) -> None:
    closures = {name: graph.files(name) for name in graph.stages}
    copied = {name: graph.files(name, verbatim=True) for name in graph.stages}
    files = code_files(graph.folder)
    by_bytes = set().union(*copied.values())
    read = [file for file in files if file.suffix == ".py" and file.as_posix() not in by_bytes]
    # A comment shall change nothing, so all of them together neither.
    assert mutate_files(graph, read, COMMENT) == {CODE}
    wrong = {}
    for file in files:
        for line in (STATEMENT,) if file in read or file.suffix != ".py" else (COMMENT, STATEMENT):
            runs_it = copied if line == COMMENT else closures
            expected = {name for name in graph.stages if file.as_posix() in runs_it[name]}
            # `check_params` reads all of work/code.
            known = any(file.as_posix() in files for files in runs_it.values())
            # No checkpoint and no object store is selected, but their code is digested as well.
            unselected = ("stages/list_objects.py", "stages/resolve_weights.py")
            known |= file.as_posix() in unselected and line == STATEMENT
            found = mutate_files(graph, [file], line)
            if found != expected | {CODE} | ({CHECK} if known else set()):
                wrong[file.as_posix(), line] = (expected - found, found - expected)
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


def flow(graph: Graph) -> set[tuple[str, str]]:
    """(stage, stage whose output it reads), from what the stages do."""
    params, names = graph.params, set(runs(graph))
    edges = {("report", name) for name in names if not name.startswith(("prepare", "report"))}
    edges |= {(name, first) for name in names for first in (CODE, CHECK)} | {(CHECK, CODE)}
    for name in params["datasets"]:
        edges |= {
            (f"validate@{name}", f"prepare@{name}"),
            (f"detect_shapes@{name}", f"validate@{name}"),
            (f"tokenize_text@{name}", f"validate@{name}"),
            (f"tokenize_text@{name}", f"detect_shapes@{name}"),
        }
    for group, stages in (
        ("align", ("pretrain_alignment", "evaluate_alignment", "export_alignment")),
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
    assert graph.edges() == flow(graph)


def test_only_names_of_data_starts_and_checkpoints_are_part_of_the_graph() -> None:
    """So another value of any other key leaves the stages and their inputs as they are."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{([^}]+)\}", text))
    groups = {"objects", "weights", "datasets", "align", "tasks"}
    fields = {"path", "data", "kind", "start", "set", "weights"}
    assert used == {"key"} | groups | {f"item.{name}" for name in fields}


ALIGNED = ("pretrain_alignment@image", "evaluate_alignment@image", "export_alignment@image")
EXPORTS = {"export_alignment@image", "export_model@vqa"}
EDITS = {
    "seed": {"pretrain_alignment@image", "finetune@vqa"},
    "tasks.vqa.train.trainer.optim.lr": {"finetune@vqa", "report"},
    "tasks.vqa.start": {"finetune@vqa", "report"},
    "align.image.data": {*ALIGNED, "report"},
    "datasets.scenes.path": {"prepare@scenes", "report"},
    "versions.onnx": EXPORTS,
    "src/plumbline/losses/contrastive.py": {"pretrain_alignment@image"},
    "src/plumbline/export/runtime/server.py": EXPORTS,
    "src/plumbline/tracking/record.py": set(),
    "src/plumbline/report/templates/report.css": {"report"},
}
"""Key or file -> what `dvc status` says of the smoke preset when it is edited."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The smoke preset with placeholders as outputs, and a dvc.lock that says they are current."""
    checkout = make_checkout(tmp_path_factory.mktemp("locked") / "project")
    write_placeholders(Repo(str(checkout.folder)).index.stages)
    checkout.run("dvc", "repro", "--single-item", CODE, CHECK)
    checkout.run("dvc", "commit", "--force")
    return checkout


def test_the_command_gives_the_answer_that_is_asked_here_in_process(
    locked: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the two stages that write the keys have run, `dvc status` names the others."""
    params = yaml.safe_load((locked.folder / "params.yaml").read_text(encoding="utf-8"))
    graph = Graph(locked, params)
    for edited, expected in EDITS.items():
        path = locked.folder / (edited if "/" in edited else "params.yaml")
        text = path.read_bytes()
        if "/" in edited:
            assert mutate_files(graph, [Path(edited)], STATEMENT) - {CODE, CHECK} == expected
            path.write_bytes(text + STATEMENT)
        else:
            value = other(leaves(params)[edited])
            assert mutate_params(graph, edited, value) - {CHECK} == expected
            changed = yaml.safe_load(text)
            put(changed, edited, value)
            path.write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
            monkeypatch.chdir(locked.folder)
            write_settings(changed, paths.SETTINGS)
        first = {CODE} if "/" in edited else {CHECK}
        assert set(json.loads(locked.run("dvc", "status", "--json").stdout)) >= first, edited
        locked.run(
            "dvc", "repro", "--single-item", CODE
        )  # the other refuses what conf/ does not say
        status = json.loads(locked.run("dvc", "status", "--json").stdout)
        path.write_bytes(text)
        locked.run("dvc", "repro", "--single-item", CODE)
        locked.run("dvc", "checkout", "--force", "work/settings")
        assert set(status) - {CODE, CHECK} == expected, edited
    locked.run("dvc", "repro", "--single-item", CODE, CHECK)
    assert json.loads(locked.run("dvc", "status", "--json").stdout) == {}
