"""Code of the project's user: what it registers stands beside what the package brings."""

import importlib
import sys
from pathlib import Path

from plumbline.kind import KINDS, Kind


def load_plugins(folder: Path) -> list[str]:
    """Import every module of a folder by its name in the package `plugins`, and list its kinds.

    A folder with `settings.py` is a kind of task of the folder's name, whose modules are imported
    when they are used. Names that begin with an underscore or a dot are left to be imported by
    others.

    Returns:
        Names of the modules, sorted.

    Raises:
        ConfigError: a kind has the name of another one.
    """
    names = sorted(
        f"plugins.{file.stem}" for file in folder.glob("*.py") if file.name[0] not in "._"
    )
    kinds = sorted(
        file.parent.name for file in folder.glob("*/settings.py") if file.parent.name[0] not in "._"
    )
    if (names or kinds) and str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))
    for name in kinds:
        KINDS.register(name, Kind(name, f"plugins.{name}"))
    for name in names:
        importlib.import_module(name)
    return names
