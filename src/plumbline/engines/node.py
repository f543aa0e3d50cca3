"""What a process on a node of a cluster does: it makes sure of the node, and computes an item.

A node works for a run only with the code, the libraries and the folder of that run, since other
ones could come to other results.
"""

import hashlib
import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import plumbline
from plumbline.errors import ConfigError
from plumbline.params import installed_versions
from plumbline.plugins import load_plugins

PLUGINS = "plugins"


@dataclass(frozen=True)
class Run:
    """What a node has to have in common with the process that asks it."""

    root: str
    """The project's folder."""
    mark: str
    """A file below it that is there while the run lasts: a copy of the folder lacks it."""
    code: str
    """Digest of the package plumbline and of the plugins."""
    versions: tuple[tuple[str, str], ...]
    """Of Python and the libraries that shape results."""


def describe_run(root: Path, mark: Path) -> Run:
    """What this process has."""
    versions = installed_versions() | {"python": platform.python_version()}
    found = tuple(sorted(versions.items()))
    return Run(str(root), mark.relative_to(root).as_posix(), _digest_code(root), found)


def compute(asking: bytes, function: bytes, item: bytes) -> bytes:
    """Compute one item on this node, in the project's folder.

    Args:
        asking: the `Run`, pickled.
        function: pickled.
        item: pickled.

    Returns:
        what the function made of it, pickled.

    Raises:
        ConfigError: this node is not one of the run's: says what differs.
        PlumblineError: the function raised it.
    """
    _check_node(asking)
    # Written by the run itself, which the cluster's nodes trust: it could run anything on them.
    return pickle.dumps(_function(function)(pickle.loads(item)))  # noqa: S301


@lru_cache(maxsize=1)
def _check_node(asking: bytes) -> None:
    run: Run = pickle.loads(asking)  # noqa: S301
    root, node = Path(run.root), f"node {platform.node()}"
    if not (root / run.mark).is_file():
        raise ConfigError(
            f"{node}: {run.root} is not the folder of this run; nodes need the project's folder "
            "under the same path, on a file system that they share"
        )
    os.chdir(root)
    load_plugins(root / PLUGINS)
    here = describe_run(root, root / run.mark)
    for (name, version), (_, wanted) in zip(here.versions, run.versions, strict=False):
        if version != wanted:
            raise ConfigError(
                f"{node}: has {name} {version}, this run {wanted}; install the same "
                "requirements.lock on every node"
            )
    if here.code != run.code:
        raise ConfigError(
            f"{node}: runs other code of plumbline ({Path(plumbline.__file__).parent}); install "
            "the same version on every node"
        )


@lru_cache(maxsize=1)
def _function(pickled: bytes) -> Callable[[object], object]:
    """The function that this process has computed last, or another one."""
    function: Callable[[object], object] = pickle.loads(pickled)  # noqa: S301
    return function


def _digest_code(root: Path) -> str:
    digest = hashlib.sha256()
    for folder in (Path(plumbline.__file__).parent, root / PLUGINS):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
