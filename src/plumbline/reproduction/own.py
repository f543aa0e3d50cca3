"""This machine's own results, where dvc.lock records those of another type of machine.

`plumbline repro` asks `adopt` before `dvc repro`, and `describe` after it.
"""

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from plumbline.errors import CheckpointError
from plumbline.reproduction.compare import changed_inputs, compare_figures, differing_outputs
from plumbline.reproduction.lock import (
    LOCK,
    StageEntry,
    in_dag_order,
    parse_lock,
    read_graph,
    read_lock,
)
from plumbline.reproduction.tolerance import figures_of, read_tolerances
from plumbline.waiting import run_command

KEYS = ("digest_code", "check_params")
"""Stages whose outputs are no results, but what the other stages are cached by."""
VERSIONS = ("conf/versions.yaml", "params.yaml")
"""What `make setup` writes anew under another Python than the record's."""


class _Output(Protocol):
    def_path: str
    hash_info: object
    meta: object


class _DvcFile(Protocol):
    def dump(self, stage: "_Stage", *, update_pipeline: bool) -> None: ...


class _Stage(Protocol):
    """A stage as DVC, whose code has no types, holds it."""

    outs: Sequence[_Output]
    deps: Sequence[_Output]
    dvcfile: _DvcFile

    def outs_cached(self) -> bool: ...


class _RunCache(Protocol):
    cache_dir: str

    def _load_cache(self, key: str, value: str) -> object: ...


def adopt(root: Path) -> list[str]:
    """Let dvc.lock name what this machine has made of the inputs that it names.

    Where the inputs of a stage are those of dvc.lock, DVC looks for the outputs of dvc.lock and
    never asks its run cache: with the lock of another type of machine it would train again what
    it has trained before.

    Returns:
        The stages whose outputs are other ones now.

    Raises:
        CheckpointError: DVC cannot read its files, or another command of it is running.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.cache import _get_cache_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    logging.getLogger("dvc").setLevel(logging.ERROR)  # it says each write of dvc.lock
    adopted = []
    try:
        with Repo(str(root)) as repo, repo.lock:
            runs = repo.stage_cache
            for stage in repo.index.stages:
                if not _lacks_outputs(stage):
                    continue
                key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
                known = _newest_run(runs, key)
                own = runs._create_stage(known, wdir=stage.wdir) if known else None
                if own is not None and own.outs_cached():
                    _take_outputs(stage, own)
                    adopted.append(stage.name)
    except DvcException as error:
        raise CheckpointError(f"{LOCK}: cannot be compared with the DVC cache ({error})") from None
    return adopted


def forget_lost(root: Path) -> None:
    """Take the stages that keep the books out of dvc.lock where the cache has not what it names.

    Others depend on single files of their outputs. DVC looks for these in the list of files that
    dvc.lock names, as it was when the command began, and ends where the cache has no such list.
    Only for an experiment, which writes dvc.lock anew: the stages come back at its end.

    Raises:
        CheckpointError: DVC cannot read its files, or another command of it is running.
    """
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, repo.lock:
            lock = Lockfile(repo, str(root / LOCK))
            for stage in repo.index.stages:
                if stage.name in KEYS and _lacks_outputs(stage):
                    lock.remove_stage(stage)
    except DvcException as error:
        raise CheckpointError(f"{LOCK}: cannot be compared with the DVC cache ({error})") from None


def _lacks_outputs(stage: _Stage) -> bool:
    """Whether dvc.lock has the stage, and the cache has not what it names."""
    known = [*stage.outs, *stage.deps]
    return bool(stage.outs) and all(one.hash_info for one in known) and not stage.outs_cached()


def _take_outputs(stage: _Stage, own: _Stage) -> None:
    made = {out.def_path: out for out in own.outs}
    for out in stage.outs:
        out.hash_info, out.meta = made[out.def_path].hash_info, made[out.def_path].meta
    stage.dvcfile.dump(stage, update_pipeline=False)


def _newest_run(runs: _RunCache, key: str) -> object:
    """What DVC's run cache has for a command, inputs and settings; None where it has nothing."""
    entries = list(Path(runs.cache_dir, key[:2], key).glob("*"))
    newest = max(entries, key=lambda entry: entry.stat().st_mtime, default=None)
    return None if newest is None else runs._load_cache(key, newest.name)


def describe(root: Path) -> str | None:
    """Say in one line that this machine's results are not the committed ones, and what to do.

    Nothing is said where they are equal, or where other inputs explain the difference.

    Raises:
        CheckpointError: there is no dvc.lock, or one of both is damaged.
    """
    text = _committed(root, LOCK)
    if text is None:
        return None
    recorded, found = parse_lock(text, f"{LOCK} of HEAD"), read_lock(root / LOCK)
    common = [name for name in in_dag_order(read_graph(found)) if name in recorded]
    results = [name for name in common if name not in KEYS]
    first = next((n for n in results if differing_outputs(recorded[n], found[n])), None)
    files = _own_files(root, recorded, found, common)
    if first is None or files is None:
        return None
    out = differing_outputs(recorded[first], found[first])[0]
    what = f"this machine's results differ from the committed ones, first in {out}"
    if not _explained(root, first, [name for stage in found.values() for name in stage.outs]):
        return f"{what}, by more than another type of processor explains: see plumbline verify"
    return (
        f"{what}, in the last digits, as on any other type of processor; to make them this "
        f"clone's own: git add {' '.join(files)} && git commit -m 'Record the results of this "
        "machine'"
    )


def _own_files(
    root: Path,
    recorded: Mapping[str, StageEntry],
    found: Mapping[str, StageEntry],
    common: Sequence[str],
) -> list[str] | None:
    """What to commit; None where settings, code or data are not those of the commit."""
    if set(found) - set(recorded):
        return None
    changed = {name for n in common for name in changed_inputs(recorded[n], found[n], found)}
    if not changed:
        return [LOCK, "metrics"]
    modified = set(_git(root, "diff", "--name-only", "HEAD", "--", "conf", "params.yaml").split())
    other_versions = all(
        name in ("conf", "params.yaml") or name.startswith("params.yaml:versions.")
        for name in changed
    )
    return [*VERSIONS, LOCK, "metrics"] if other_versions and modified <= set(VERSIONS) else None


def _explained(root: Path, first: str, outs: Sequence[str]) -> bool:
    """Whether verify.yaml allows the difference on a machine of another type."""
    tolerances = read_tolerances(root)
    if tolerances.is_exact(first):
        return False
    for file in (out for out in outs if out.startswith("metrics/")):
        before, now = _committed(root, file), root / file
        if before is None or not now.is_file():
            continue
        pair = [figures_of(json.loads(t), file) for t in (before, now.read_text(encoding="utf-8"))]
        if not all(d.within for d in compare_figures(pair[0], pair[1], tolerances)):
            return False
    return True


def _committed(root: Path, file: str) -> str | None:
    """A file of HEAD; None where it has none."""
    try:
        return _git(root, "show", f"HEAD:./{file}")
    except subprocess.CalledProcessError:
        return None


def _git(root: Path, *arguments: str) -> str:
    done = run_command(["git", "--no-optional-locks", *arguments], cwd=root)
    done.check_returncode()
    return done.stdout
