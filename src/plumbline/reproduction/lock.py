"""dvc.lock as data: what each stage read and wrote, and which stage feeds which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import yaml

from plumbline.errors import CheckpointError

LOCK = "dvc.lock"


@dataclass(frozen=True)
class StageEntry:
    """What dvc.lock says of one stage."""

    name: str
    command: str
    deps: Mapping[str, str]
    """Path -> MD5 of the file, or of the list of files (`....dir`) of a folder."""
    params: Mapping[str, object]
    """`params.yaml:seed` -> value."""
    outs: Mapping[str, str]
    """As `deps`."""


Stages = Mapping[str, StageEntry]


def read_lock(path: Path) -> dict[str, StageEntry]:
    """Read the stages of a dvc.lock, in the order of the file.

    Raises:
        CheckpointError: it is missing or not a lock of DVC.
    """
    try:
        return parse_lock(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; run dvc repro and commit it") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a lock of DVC ({error}); run dvc repro") from None


def parse_lock(text: str, name: str) -> dict[str, StageEntry]:
    """Read the stages of the text of a dvc.lock, which messages call `name`.

    Raises:
        CheckpointError: it is not a lock of DVC.
    """
    try:
        document = yaml.safe_load(text)
        return {stage: _entry(stage, entry) for stage, entry in document["stages"].items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name}: not a lock of DVC ({reason}); run dvc repro") from None


class _File(TypedDict):
    path: str
    md5: str


class _Stage(TypedDict):
    cmd: str
    deps: NotRequired[list[_File]]
    params: NotRequired[dict[str, dict[str, object]]]
    outs: NotRequired[list[_File]]


def _entry(name: str, stage: _Stage) -> StageEntry:
    params = {
        f"{file}:{key}": value
        for file, values in stage.get("params", {}).items()
        for key, value in values.items()
    }
    return StageEntry(
        name,
        stage["cmd"],
        {dep["path"]: dep["md5"] for dep in stage.get("deps", [])},
        params,
        {out["path"]: out["md5"] for out in stage.get("outs", [])},
    )


def feeds(out: str, dep: str) -> bool:
    """Whether who reads `dep` reads something of `out`: it is the same place, or one holds it."""
    return f"{out}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{out}/")


Reads = Mapping[str, frozenset[tuple[str, str]]]
"""Stage -> the (stage, output) pairs that it reads."""


def read_graph(stages: Stages) -> Reads:
    """Which stage reads what of which."""
    outs = [(name, out) for name, stage in stages.items() for out in stage.outs]
    return {
        name: frozenset(
            (maker, out)
            for maker, out in outs
            if maker != name and any(feeds(out, dep) for dep in stage.deps)
        )
        for name, stage in stages.items()
    }


def in_dag_order(reads: Reads) -> list[str]:
    """Names of the stages so that each comes after those that it reads from.

    Stages that do not depend on each other keep the order of `reads`.

    Raises:
        CheckpointError: the stages read from each other in a circle.
    """
    waiting = {name: {maker for maker, _ in pairs} for name, pairs in reads.items()}
    ordered: list[str] = []
    while waiting:
        ready = next((name for name, before in waiting.items() if not before & set(waiting)), None)
        if ready is None:
            raise CheckpointError(f"{LOCK}: {', '.join(waiting)} read from each other in a circle")
        ordered.append(ready)
        del waiting[ready]
    return ordered


def with_upstream(targets: Iterable[str], stages: Stages) -> set[str]:
    """The stages that DVC means by `targets` (`finetune` stands for all of its keys), and before.

    Raises:
        CheckpointError: a target is no stage of the lock.
    """
    found: set[str] = set()
    waiting: list[str] = []
    reads = read_graph(stages)
    for target in targets:
        named = [name for name in stages if target in (name, name.split("@")[0])]
        if not named:
            raise CheckpointError(f"{target}: no stage of {LOCK}; it has {', '.join(stages)}")
        waiting += named
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [maker for maker, _ in reads[name]]
    return found
