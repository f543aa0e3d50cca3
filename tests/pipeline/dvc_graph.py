"""What an edit would let DVC rerun, asked in this process: a command per edit takes too long.

The stages and what they depend on are DVC's own; the small files that `digest_code` and
`check_params` would write are made by their own functions, without running anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from plumbline import paths
from plumbline.code_digest import CodeTree
from plumbline.params import PACKAGES
from plumbline.stage import settings_text
from plumbline.stages.digest_code import codes, describe
from plumbline.stages.specs import specs
from tests.pipeline.checkout import Checkout

CODE, CHECK = "digest_code", "check_params"
"""The stages that write what all others depend on."""


class Graph:
    """The stages of a checkout, and what an edit invalidates.

    `params` is what `check_params` would read of params.yaml; tests change it in place.
    """

    def __init__(self, checkout: Checkout, params: dict[str, Any]) -> None:
        self.folder, self.params = checkout.folder, params
        with self._inside():
            self.repo = Repo(str(self.folder))
            self.stages = {
                stage.name: {os.path.relpath(dep.fs_path, self.folder) for dep in stage.deps}
                for stage in self.repo.index.stages
            }
            """Name -> places that it depends on, relative to the checkout."""
        self._tree = CodeTree(self.folder, self.folder / "src/plumbline")
        self._closures = {place.as_posix(): closure for place, closure in codes(self._tree)}
        self._codes = self.codes()
        self._settings = self.settings()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            yield

    def codes(self) -> dict[str, dict[str, Any]]:
        """Files of `work/code` -> their content."""
        return {place.as_posix(): describe(closure) for place, closure in codes(self._tree)}

    def files(self, stage: str, *, verbatim: bool = False) -> set[str]:
        """Files of code that a stage runs; `verbatim`: those of which every byte counts."""
        closures = self._closures
        own = paths.code(stage.partition("@")[0]).as_posix()  # `check_params` reads all of them
        return {
            name if name.split("/")[0] != "plumbline" else f"src/{name}"
            for place in (self.stages[stage] | {own}) & set(closures)
            for name in (closures[place].verbatim if verbatim else closures[place].files)
        }

    def libraries(self, stage: str) -> list[str]:
        """Libraries that a stage's code imports; none of a stage that was not there at first."""
        if stage not in self.stages:
            return []
        (place,) = self.stages[stage] & set(self._codes)
        return [name for name in PACKAGES if name in self._codes[place]["libraries"]]

    def settings(self) -> dict[str, str]:
        """Files of `work/settings` -> their content."""
        return {
            paths.settings(spec.name, key).as_posix(): settings_text(
                spec, key, self.params, self.libraries(f"{spec.name}@{key}" if key else spec.name)
            )
            for spec in specs()
            for key in (self.params[spec.group] if spec.group else [""])
        }

    def invalidated_by_params(self) -> set[str]:
        """Stages that rerun after a change of `params`."""
        return {CHECK} | self._readers(changed(self._settings, self.settings()))

    def invalidated_by_files(self) -> set[str]:
        """Stages that rerun after an edit of a file of code."""
        differ = changed(self._codes, self.codes())
        return {CODE} | ({CHECK} | self._readers(differ) if differ else set())

    def _readers(self, places: set[str]) -> set[str]:
        return {name for name, deps in self.stages.items() if deps & places}

    def resolved(self) -> set[str]:
        """The stages that there are now."""
        with self._inside():
            return {stage.name for stage in Repo(str(self.folder)).index.stages}

    def edges(self) -> set[tuple[str, str]]:
        """(stage, stage that it waits for), from DVC's own graph."""
        graph = self.repo.index.graph
        return {(first.name, second.name) for first, second in graph.edges}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Keys under which two mappings differ; those that are new are nobody's yet."""
    return {key for key, value in before.items() if after.get(key) != value}


def write_placeholders(stages: Any) -> None:
    """Something at the place of every output, so that what depends on it can be saved."""
    for stage in stages:
        for out in stage.outs:
            path = Path(out.fs_path)
            if stage.name in (CODE, CHECK):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.write_text("{}\n", encoding="utf-8")
            else:
                path.mkdir(exist_ok=True)
                (path / "placeholder.csv").write_text(f"{out.def_path}\n", encoding="utf-8")
