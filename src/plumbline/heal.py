"""Mend what a killed dvc leaves in its run cache: `plumbline repro` and sweeps do it first.

DVC makes the folder of an entry, writes the entry beside its name and renames it. Killed in between
it leaves a folder without an entry, or with half a one, and every later `dvc repro` of that stage
ends in `join() argument must be str ...` or `'outs'`. An entry is a shortcut: without it the stage
runs, or finds its outputs in the cache, with the same result.
"""

import configparser
import re
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SETTLE_S = 1.0
"""How long an entry may be in the making: DVC takes milliseconds."""


def heal(root: Path) -> list[Path]:
    """Remove what is broken in the run cache of the project in `root`.

    Returns:
        Folders without an entry and files that are none.
    """
    runs = cache_folder(root) / "runs"
    if not (found := set(_broken(runs))):
        return []
    time.sleep(_SETTLE_S)  # another dvc may be writing one at this moment
    healed = [path for path in _broken(runs) if path in found]
    for path in healed:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return healed


def cache_folder(root: Path) -> Path:
    """Where the DVC cache of a project lies, as its own configuration says."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return root / ".dvc" / config.get("cache", "dir", fallback="cache")


def _broken(runs: Path) -> Iterator[Path]:
    for folder in sorted(path for path in runs.glob("*/*") if path.is_dir()):
        entries = sorted(folder.iterdir())
        if not entries:
            yield folder
        yield from (entry for entry in entries if not _is_whole(entry))


def _is_whole(entry: Path) -> bool:
    """Whether a file is an entry: DVC renames it, to a digest, when it is complete.

    A power failure may leave an empty one under that name too.
    """
    if not _DIGEST.fullmatch(entry.name):
        return False
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(entry.read_bytes(), loader)  # noqa: S506  a safe one
    except (OSError, yaml.YAMLError):
        return False
    outs = content.get("outs") if isinstance(content, dict) else None
    return isinstance(outs, list) and all(isinstance(out, dict) and "path" in out for out in outs)
