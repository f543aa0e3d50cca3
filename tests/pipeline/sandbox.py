"""Stages run where nothing lies but what dvc.yaml declares for them, and every read is recorded."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from plumbline import paths
from plumbline.files import read_json
from tests.pipeline.checkout import ENVIRONMENT, ROOT
from tools.trace_stage import OURS

RECORD_OFF = '''"""Nothing is recorded: a stage's outputs cannot depend on its run record."""

from contextlib import contextmanager


class Off:
    path = None

    def metrics(self, step, values): ...
    def facts(self, values): ...
    def artifact(self, path): ...


@contextmanager
def record_run(**_):
    yield Off()
'''
PARTIAL = re.compile(r"(^|/)\..+\.(partial|before)-\d+")


KEYLESS = ("src/plumbline/kind.py", "src/plumbline/imports.py")
"""Code that no stage declares, beside the tracker: a table whose entries are declared each, and how
it imports them."""


class StageFailed(AssertionError):
    """A stage ended with an error in its sandbox."""


@dataclass(frozen=True)
class Declared:
    """One stage as DVC resolves it: places relative to the checkout."""

    stage: str
    key: str
    code: tuple[str, ...]
    data: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.stage}@{self.key}" if self.key else self.stage

    @property
    def command(self) -> list[str]:
        return [self.stage, *([self.key] if self.key else [])]


def code_of(folder: Path, stage: str, places: tuple[str, ...]) -> Iterator[str]:
    """Files of code that a stage depends on, by what `digest_code` wrote."""
    own = paths.code(stage).as_posix()  # `check_params` reads them all
    for place in (*places, own) if own not in places else places:
        if place.startswith(f"{paths.CODE}/") and (folder / place).is_file():
            for name in read_json(folder / place)["files"]:
                yield name if name.split("/")[0] != "plumbline" else f"src/{name}"


def declared_stages(folder: Path) -> list[Declared]:
    """All stages of a checkout, each after those that it depends on."""
    import networkx

    index = Repo(str(folder)).index
    found = []
    for stage in networkx.dfs_postorder_nodes(index.graph):
        name, _, key = stage.name.partition("@")
        relative = [Path(d.fs_path).relative_to(folder).as_posix() for d in stage.deps]
        places = tuple(dict.fromkeys(relative))  # a task may start from its own data
        if name == "digest_code":
            continue  # it reads all of the code, and nothing else
        found.append(
            Declared(
                stage=name,
                key=key,
                code=tuple(code_of(folder, name, places)),
                data=places,
                params=tuple(
                    key
                    for place in places
                    if place.startswith(f"{paths.SETTINGS}/")
                    for key in read_json(folder / place)
                ),
                outs=tuple(Path(o.fs_path).relative_to(folder).as_posix() for o in stage.outs),
            )
        )
    return found


def covers(places: tuple[str, ...], file: str) -> bool:
    return any(file == place or file.startswith(f"{place}/") for place in places)


def only(params: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The part of the parameters that lies at dotted keys."""
    kept: dict[str, Any] = {}
    for dotted in keys:
        *parents, last = dotted.split(".")
        source, target = params, kept
        for part in parents:
            source, target = source[part], target.setdefault(part, {})
        target[last] = source[last]
    return kept


def make_sandbox(checkout: Path, folder: Path, declared: Declared) -> None:
    """A folder that holds the declared inputs of a stage, the declared keys, and a mute tracker.

    All versions of libraries are there: no stage computes with one, and all check all of them.
    """
    for place in (*declared.code, *declared.data):
        source, target = checkout / place, folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=skip, copy_function=os.link, dirs_exist_ok=True)
        elif not target.exists():
            os.link(source, target)
    record = folder / "src/plumbline/tracking/record.py"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    record.with_name("__init__.py").touch()
    record.write_text(RECORD_OFF, encoding="utf-8")
    shown = record.with_name("progress.py")  # it speaks and returns nothing
    if not shown.exists():
        os.link(checkout / "src/plumbline/tracking/progress.py", shown)
    for table in KEYLESS:
        if not (folder / table).exists():
            os.link(checkout / table, folder / table)
    if "params.yaml" not in declared.data:
        params = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
        keys = (*(key for key in declared.params if not key.startswith("versions.")), "versions")
        (folder / "params.yaml").write_text(
            yaml.safe_dump(only(params, keys), sort_keys=False), encoding="utf-8"
        )


def trace(folder: Path, declared: Declared) -> dict[str, Any]:
    """Run a stage in its sandbox; what tools/trace_stage.py recorded."""
    out = folder.with_suffix(".json")
    command = [sys.executable, str(ROOT / "tools/trace_stage.py"), str(out), *declared.command]
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PLUMBLINE_TRACKING", "HF_HUB_OFFLINE")
    done = subprocess.run(
        command,
        cwd=folder,
        env={name: ENVIRONMENT[name] for name in kept if name in ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise StageFailed(f"{declared.name}: {done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def digests(folder: Path, places: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of every file of some outputs."""
    return {
        file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest()
        for place in places
        for file in _files(folder / place)
    }


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from (path for path in sorted(place.rglob("*")) if path.is_file())


def undeclared_reads(declared: Declared, found: Mapping[str, Any]) -> list[str]:
    """Files, modules and settings that a run read though dvc.yaml does not declare them."""
    own = (*declared.outs, ".plumbline", ".ckpt")
    allowed = (
        *(*declared.code, *declared.data, *KEYLESS),
        *("params.yaml", "src/plumbline/tracking"),
    )
    read = [
        *found["files"],
        *(file for name, file in found["modules"].items() if name.split(".")[0] in OURS),
    ]
    files = {
        file
        for file in read
        if not (covers(allowed, file) or covers(own, file) or PARTIAL.search(file))
        and "__pycache__" not in file
    }
    keys = {key for key in found["keys"] if not covers_key(declared.params, key)}
    return sorted(files | keys)


def covers_key(params: tuple[str, ...], key: str) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in params)
