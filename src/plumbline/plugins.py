"""Code of the project's user: what it registers stands beside what the package brings."""

import importlib
import sys
from pathlib import Path


def load_plugins(folder: Path) -> list[str]:
    """Import every module of a folder by its name in the package `plugins`.

    Files whose name begins with an underscore or a dot are left to be imported by others.

    Returns:
        Names of the modules, sorted.
    """
    names = sorted(
        f"plugins.{file.stem}" for file in folder.glob("*.py") if file.name[0] not in "._"
    )
    if names and str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))
    for name in names:
        importlib.import_module(name)
    return names
