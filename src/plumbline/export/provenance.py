"""What a bundle was made of, by digests from which its commits are found again.

A commit in the bundle would change bytes that are equal otherwise: a digest does not. MD5 is that
of DVC, as `dvc.lock` has it; SHA-256 is what outputs here are checked by.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from plumbline.config import Config
from plumbline.files import DIGESTS, sha256_file

Name = Literal["data", "settings", "code", "model"]
NAMES: tuple[Name, ...] = get_args(Name)


class Ingredient(Config):
    """One of the things that a bundle was made of."""

    path: str
    """In the project, as `dvc.lock` has it."""
    md5: str = Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")
    """As `dvc.lock` has it: of a file, or of the list of files (`....dir`) of a folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file, or of the `digests.json` of a folder, which has those of all its files."""


class Provenance(Config):
    """Section `provenance` of metadata.json: what the stage that made the bundle depends on."""

    stage: str
    """Such as `export_model@vqa`."""
    made_of: dict[Name, Ingredient]
    """One that is missing is unknown: the stage was run by hand, not by DVC."""


def describe_provenance(stage: str, inputs: Mapping[Name, Path]) -> Provenance:
    """The digests of what a stage depends on.

    Args:
        stage: as in `dvc.lock`.
        inputs: ingredient -> its file or folder below the working folder; what is not there is
            left out.
    """
    known = {name: _describe(path) for name, path in inputs.items() if path.exists()}
    return Provenance(stage=stage, made_of=known)


def _describe(path: Path) -> Ingredient:
    listed = path / DIGESTS if path.is_dir() else path
    return Ingredient(path=path.as_posix(), md5=dvc_md5(path), sha256=sha256_file(listed))


def dvc_md5(path: Path, names: Collection[str] | None = None) -> str:
    """What DVC 3 calls a file or a folder in `dvc.lock`.

    Args:
        path: of it.
        names: of the files of a folder that count; None: all.

    Source: `dvc_data.hashfile.tree.Tree.as_bytes`.
    """
    if not path.is_dir():
        return _md5(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    counted = sorted(files if names is None else files.keys() & names)
    entries = [{"md5": _md5(files[name]), "relpath": name} for name in counted]
    listed = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listed, usedforsecurity=False).hexdigest()}.dir"


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        # No secret hangs on it: files are checked by their SHA-256.
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
