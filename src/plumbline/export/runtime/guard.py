"""What is checked before anything of this bundle is imported: that it holds its own code alone.

The scripts run this file by its path instead of importing it, so that no other file can take its
place, and a `json.py` or a folder `numpy` beside them is refused before Python would find it.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

DIGESTS = "digests.json"
CODE = tuple(importlib.machinery.all_suffixes())
"""Endings of what Python imports."""


class BundleError(Exception):
    """The bundle is damaged or lacks something; the text is one line."""


def printable(text: object) -> str:
    """Text for a terminal: what would move its cursor or turn its direction is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def read_digests(folder: Path) -> dict[str, str]:
    """Read digests.json: SHA-256 by file name.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        digests: dict[str, str] = json.loads((folder / DIGESTS).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{DIGESTS}: not readable ({error}); copy the whole bundle") from None
    if not isinstance(digests, dict) or not digests:
        raise BundleError(f"{DIGESTS}: names no file; copy the whole bundle")
    for name, digest in digests.items():
        # Whatever else a digest says is found when the file is read: it will not match.
        if not isinstance(digest, str) or len(digest) != 64:
            raise BundleError(f"{DIGESTS}: {name}: not a SHA-256; copy the whole bundle")
    return digests


def check_file(folder: Path, digests: dict[str, str], name: str) -> Path:
    """Compare a file with its digest and return its path.

    Raises:
        BundleError: it is not listed, missing, or its bytes have changed.
    """
    if name not in digests:
        raise BundleError(f"{name}: not listed in {DIGESTS}, so it is not loaded")
    path = folder / name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{name}: {error.strerror}; copy the whole bundle") from None
    if digest != digests[name]:
        raise BundleError(f"{name}: its bytes changed after export (SHA-256 differs)")
    return path


def check_code(folder: Path) -> None:
    """Refuse code that the digests do not name, or that is not what they say.

    Raises:
        BundleError: with the first such file.
    """
    digests = read_digests(folder)
    try:
        strangers = [name for name in _importable(folder) if name not in digests]
    except OSError as error:
        raise BundleError(f"{error.filename}: {error.strerror}; copy the whole bundle") from None
    if strangers:
        raise BundleError(
            f"{min(strangers)}: not listed in {DIGESTS}, so nothing is imported beside it; "
            "move it out of the bundle"
        )
    # All of it now: what is imported later was looked at before the first import.
    for name in digests:
        if name.endswith(CODE):
            check_file(folder, digests, name)


def _importable(folder: Path) -> Iterator[str]:
    """What Python could import from the bundle, were it to look there; all that is in runtime."""
    for entry in folder.iterdir():
        if entry.name.endswith(CODE):
            yield entry.name
        # A package; not .venv, nor __pycache__ of whoever imports inference from elsewhere.
        elif entry.name.isidentifier() and entry.name != "__pycache__" and entry.is_dir():
            inside = [f"{entry.name}/{inner.name}" for inner in entry.iterdir()]
            yield from (n for n in inside if entry.name == "runtime" or n.endswith(CODE))


def enter(folder: Path, *, as_script: bool) -> None:
    """Check the code, then make `runtime` importable, from this folder and by no search.

    Raises:
        SystemExit: the bundle holds other code, said in one line; for a script.
        ImportError: the same for a program that imports the bundle.
    """
    try:
        check_code(folder)
    except BundleError as error:
        if not as_script:
            raise ImportError(str(error)) from None
        print(f"error: {printable(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    where = folder / "runtime"
    spec = importlib.util.spec_from_file_location(
        "runtime", where / "__init__.py", submodule_search_locations=[str(where)]
    )
    assert spec is not None
    assert spec.loader is not None
    # In place before its code runs, as the import system does: it imports from itself.
    sys.modules["runtime"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["runtime"])
