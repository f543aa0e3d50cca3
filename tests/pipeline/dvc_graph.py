"""What DVC itself says of an edit, asked in this process: a command per edit takes too long.

Only the reading of params.yaml is replaced, by a mapping that tests change in place; which stages
an edit invalidates is DVC's own comparison with what it saved before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import dvc.dependency.param
import dvc.utils.serialize
import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

from tests.pipeline.checkout import Checkout
from tools.code_deps import is_code


def look_up(params: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    """What DVC reads of params.yaml for a stage, without its walk through all of the file."""
    found = {}
    for dotted in keys:
        value: Any = params
        for part in dotted.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            found[dotted] = value
    return found


class Graph:
    """The stages of a checkout, and what DVC says that an edit invalidates.

    `params` is what DVC reads of params.yaml; the file itself only has to differ when it does.
    """

    def __init__(self, checkout: Checkout, params: dict[str, Any]) -> None:
        self.folder, self.params = checkout.folder, params
        self._file = str(checkout.folder / "params.yaml")
        self._saved: dict[str, Any] = {}
        with self._reading():
            self.repo = Repo(str(checkout.folder))
            self.stages = {stage.name: stage for stage in self.repo.index.stages}
            write_placeholders(self.stages.values())
            for stage in self.stages.values():
                for dep in stage.deps:
                    self._save(dep)

    def _save(self, dep: Any) -> None:
        if isinstance(dep, ParamsDependency):
            assert look_up(self.params, dep.params) == dep.read_params()
            dep.save()
        elif dep.fs_path in self._saved:
            dep.hash_info = self._saved[dep.fs_path].hash_info
        else:
            dep.save()
            self._saved[dep.fs_path] = dep

    @contextmanager
    def _reading(self, **patches: Any) -> Iterator[None]:
        load = dvc.utils.serialize.load_path

        def load_path(path: Any, fs: Any, **named: Any) -> Any:
            ours = str(path) in (self._file, "params.yaml")
            # A copy: what DVC saves must not change with the mapping.
            return deepcopy(self.params) if ours else load(path, fs, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(dvc.utils.serialize, "load_path", load_path)
            patch.setattr(dvc.dependency.param, "load_path", load_path)
            for name, value in patches.items():
                patch.setattr(ParamsDependency, name, value)
            yield

    def invalidated_by_params(self) -> set[str]:
        """Stages that a change of `params` invalidates, with that of the file."""

        def read_params(dep: Any, **_: Any) -> dict[str, Any]:
            return look_up(self.params, dep.params)

        file = bool(self._saved[self._file].status())
        with self._reading(read_params=read_params):
            return {
                name
                for name, stage in self.stages.items()
                for dep in stage.deps
                if (dep.status() if isinstance(dep, ParamsDependency) else False)
                or (file and dep.fs_path == self._file and not isinstance(dep, ParamsDependency))
            }

    def invalidated_by_files(self, *, code_only: bool = True) -> set[str]:
        """Stages of which a file differs from what was saved; `code_only` skips the data."""
        with self._reading():
            changed = {
                path
                for path, dep in self._saved.items()
                if (not code_only or is_code(Path(path).relative_to(self.folder).as_posix()))
                and dep.status()
            }
        return {
            name
            for name, stage in self.stages.items()
            if any(dep.fs_path in changed for dep in stage.deps)
        }

    def resolved(self) -> set[str]:
        """The stages that there are now."""
        with self._reading():
            return {stage.name for stage in Repo(str(self.folder)).index.stages}

    def edges(self) -> set[tuple[str, str]]:
        """(stage, stage that it waits for), from DVC's own graph."""
        graph = self.repo.index.graph
        return {(first.name, second.name) for first, second in graph.edges}


def write_placeholders(stages: Any) -> None:
    """Something at the place of every output, so that what depends on it can be saved."""
    for stage in stages:
        for out in stage.outs:
            path = Path(out.fs_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.write_text("{}\n", encoding="utf-8")
            else:
                path.mkdir(exist_ok=True)
                (path / "placeholder.csv").write_text(f"{out.def_path}\n", encoding="utf-8")
