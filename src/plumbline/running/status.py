"""Where each stage of the pipeline is: current, running, to run, and why."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import CheckpointError, PlumblineError
from plumbline.params import entries_of
from plumbline.reproduction.lock import LOCK, read_graph, read_lock
from plumbline.reproduction.own import KEYS
from plumbline.running.checks import stage_outputs
from plumbline.stage import check_unchanged
from plumbline.stages.specs import specs
from plumbline.tracking.past_runs import PastRun, newest_runs
from plumbline.waiting import run_command


@dataclass(frozen=True)
class StageState:
    """One stage of the pipeline."""

    name: str
    """With its key: `finetune@vqa`."""
    state: str
    """`current`, `running`, or `to run`."""
    why: str
    """Of one that is to run; how far one is that runs."""
    last: PastRun | None
    """Its newest run that left a record here."""


def read_states(root: Path, params: Mapping[str, object]) -> list[StageState]:
    """The state of every stage, in the order of the DAG.

    Settings and code are compared with those that the outputs were made by, which `dvc status`
    does once `check_params` and `digest_code` have run.

    Args:
        root: the project, which is the working folder.
        params: what params.yaml holds.

    Raises:
        ConfigError: params.yaml or dvc.yaml is damaged.
        CheckpointError: DVC cannot read its files.
    """
    changed = dict(_changed_by_dvc(root))
    changed |= {name: why for name, why in _changed_here(params) if name not in changed}
    recent = newest_runs(root)
    graph = read_graph(read_lock(root / LOCK)) if (root / LOCK).is_file() else {}
    states: list[StageState] = []
    waiting: set[str] = set()  # what is to run, and so what is behind it
    for name in stage_outputs(root, params):
        last = recent.get(name)
        before = [maker for maker, _ in sorted(graph.get(name, ())) if maker in waiting - {*KEYS}]
        if last and last.status == "running":
            step = last.last_step()
            state, why = "running", "" if step is None else f"step {step:,}"
        elif name in changed:
            state, why = "to run", changed[name]
        elif name not in graph:
            state, why = "to run", "never recorded"
        elif before:
            state, why = "to run", f"behind {before[0]}"
        else:
            state, why = "current", ""
        if state != "current":
            waiting.add(name)
        states.append(StageState(name, state, why, last))
    return states


def _changed_by_dvc(root: Path) -> Iterator[tuple[str, str]]:
    """What `dvc status` names, in a few words each."""
    done = run_command(["dvc", "status", "--json"], cwd=root)
    if done.returncode:
        raise CheckpointError(f"dvc status: {' '.join(done.stderr.split())[:300]}")
    for name, changes in json.loads(done.stdout or "{}").items():
        for change in changes:
            if not isinstance(change, dict):  # "always changed", "changed command"
                yield name, str(change)
                continue
            for what, places in change.items():
                named = ", ".join(f"{place} {how}" for place, how in list(places.items())[:2])
                more = f" and {len(places) - 2} more" if len(places) > 2 else ""
                yield name, f"{what.removeprefix('changed ')}: {named}{more}"


def _changed_here(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Stages whose settings or code are no longer those that they depend on."""
    for spec in specs():
        for key in [""] if spec.group is None else list(entries_of(params, spec.group)):
            try:
                check_unchanged(spec, key, params)
            except PlumblineError as error:
                why = str(error).partition(" is stale: ")[2] or str(error)
                yield f"{spec.name}@{key}" if key else spec.name, why.partition(";")[0]
