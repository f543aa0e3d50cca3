"""The code of a bundle: copies of modules of ours, which import each other alone."""

import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from plumbline.errors import ExportError
from plumbline.export.formats import FORMATS
from plumbline.export.plan import module_of

COMMON_CODE = (
    "plumbline/export/runtime/__init__.py",
    "plumbline/export/runtime/contract.py",
    "plumbline/export/runtime/files.py",
    "plumbline/export/runtime/guard.py",
    "plumbline/export/runtime/inputs.py",
    "plumbline/export/runtime/model.py",
    "plumbline/export/runtime/page.py",
    "plumbline/export/runtime/refusals.py",
    "plumbline/export/runtime/scores.py",
    "plumbline/export/runtime/worker.py",
    "plumbline/export/runtime/workers.py",
    "plumbline/data/arrays.py",
    "plumbline/data/library_lines.py",
    "plumbline/data/undecodable.py",
)
"""What every bundle runs: it decodes with the files of training."""
OURS = re.compile(r"(?m)^( *)from ((?:plumbline|plugins)[\w.]*) (?=import )")
"""An import of what lies beside a module in a bundle."""


def bundled_code(runtime: Sequence[str], formats: Iterable[str]) -> dict[str, str]:
    """The modules of a bundle's folder `runtime` by name, which import each other alone.

    Args:
        runtime: as in `GraphPlan`.
        formats: those whose readers the bundle needs.

    Raises:
        ExportError: two have one name, or one cannot be imported without what is not among them.
    """
    places = [module_of(file) for file in (*COMMON_CODE, *runtime)]
    names = {place: _name_in_bundle(place) for place in places}
    # The first of the kind's own files has its `TASK`; a bundle finds it as runtime/task.py.
    names[module_of(runtime[0])] = "task"
    # Formats with one reader have a copy each: a bundle finds it by the name of the format.
    readers = [(module_of(FORMATS[name].reader), f"format_{name}") for name in formats]
    copies = [*names.items(), *readers]
    names |= dict(readers)
    modules: dict[str, str] = {}
    for place, name in copies:
        if name in modules:
            raise ExportError(f"{place}: a bundle has another module of the name {name}")
        file = Path(str(importlib.import_module(place).__file__))
        text = file.read_text(encoding="utf-8")
        for indent, other in OURS.findall(text):
            # What only some bundles have is imported in a function, by those that use it.
            if not indent and other not in names:
                raise ExportError(
                    f"{file}: imports {other}, which the bundle does not have; name its file in "
                    "the plan's `runtime`, or do without"
                )
        modules[name] = OURS.sub(
            lambda found: f"{found[1]}from .{names.get(found[2]) or _name_in_bundle(found[2])} ",
            text,
        )
    return modules


def _name_in_bundle(place: str) -> str:
    """The last part of a module's name, or that of the folder that it is the runtime of."""
    *folders, last = place.split(".")
    if last == "__init__":
        return last
    return folders[-1] if last == "runtime" else last
