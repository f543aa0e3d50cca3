"""What lies below a URL, object by object, with what tells one version of it from another."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import CheckpointError, DataError
from plumbline.files import atomic_write
from plumbline.objects.settings import ObjectsConfig
from plumbline.objects.stores import explained, open_store
from plumbline.sources.patterns import is_within

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_MAX_PART_BYTES = 255
"""Of a name, between two slashes: file systems have no more."""
_MD5_DIGITS = 32
_BLOCK_BYTES = 2**20
_MARKS = ("generation", "ETag", "etag", "blob_id", "xet_hash", "created", "mtime", "LastModified")
Info = Mapping[str, Any]
"""What fsspec says of an object: `size`, `name`, `type`, and what its store adds."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """An object, as it was when it was listed."""

    name: str
    """Below the URL, with slashes."""
    bytes: int
    mark: str
    """What the store calls this version of its content."""
    checksum: str
    """`md5:`, `sha256:` or `git:` and digits of the content; empty where the store has none."""


@dataclass(frozen=True)
class Listing:
    """All objects below a URL."""

    url: str
    single: bool
    """Whether the URL is one object, of the name that it ends in."""
    anonymous: bool
    objects: Sequence[ObjectFacts]
    """By name."""

    @property
    def bytes(self) -> int:
        """Of all objects."""
        return sum(one.bytes for one in self.objects)

    def url_of(self, name: str) -> str:
        """The URL of an object."""
        return self.url if self.single else f"{self.url.rstrip('/')}/{name}"

    @cached_property
    def text(self) -> str:
        """As it is stored: a line for the URL, then one an object."""
        head = {"url": self.url, "single": self.single, "anonymous": self.anonymous}
        lines = [head, *(asdict(one) for one in self.objects)]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Store it, whole or not at all."""
        atomic_write(path, self.text)


def read_listing(path: Path) -> Listing:
    """Read what `Listing.write` has stored.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(next(file, "null"))
            return Listing(**head, objects=[ObjectFacts(**json.loads(line)) for line in file])
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; run dvc repro list_objects@{path.stem}") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); run dvc repro -f list_objects@{path.stem}"
        ) from None


def list_objects(config: ObjectsConfig) -> Listing:
    """Ask a store what lies below a URL now.

    Raises:
        ConfigError: it cannot be asked.
        DataError: nothing lies there, or something under a name that no file can have.
    """
    store = open_store(config.url, anonymous=config.anonymous)
    with explained(config.url):
        root = store._strip_protocol(config.url).rstrip("/")
        found: dict[str, Info] = store.find(config.url, detail=True)
    single = set(found) == {root}
    objects = [
        _facts(name, info)
        for path, info in found.items()
        if info["type"] == "file"
        and (name := root.rpartition("/")[2] if single else _below(path, root, config.url))
        and (not config.only or is_within(name, config.only))
    ]
    listing = Listing(
        config.url, single, config.anonymous, sorted(objects, key=lambda one: one.name)
    )
    if not objects:
        what = f"named {', '.join(config.only)}" if config.only else "there"
        raise DataError(f"{config.url}: no object {what}; check bucket, prefix and patterns")
    _check_names(listing)
    return listing


def _below(path: str, root: str, url: str) -> str:
    """The name of an object below the URL; empty for one that stands for a folder."""
    if not path.startswith(f"{root}/"):
        raise DataError(f"{url}: the store lists {path}, which is not below it")
    name = path.removeprefix(f"{root}/")
    return "" if name.endswith("/") else name


def _check_names(listing: Listing) -> None:
    """Refuse names that would lead out of a folder, or that no file can have.

    Raises:
        DataError: names the first object.
    """
    names = {one.name for one in listing.objects}
    for name in names:
        parts = name.split("/")
        url, remedy = listing.url_of(name), "rename it there, or leave it out (only)"
        if {"", ".", ".."} & set(parts) or "\0" in name:
            raise DataError(f"{url}: a part of this name is empty, . or ..: {remedy}")
        if max(len(part.encode("utf-8", "surrogateescape")) for part in parts) > _MAX_PART_BYTES:
            raise DataError(f"{url}: longer than the name of a file may be: {remedy}")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in names:
                raise DataError(f"{url}: lies below the name of another object: {remedy}")


def _facts(name: str, info: Info) -> ObjectFacts:
    return ObjectFacts(name, int(info["size"] or 0), mark_of(info), checksum_of(info))


def look_at(store: "AbstractFileSystem", path: str) -> Info:
    """What a store says of one object now.

    Raises:
        OSError: it is not there any more, or cannot be asked for; or an error of the store's own.
    """
    store.invalidate_cache()
    info: Info = store.info(path)
    return info


def mark_of(info: Info) -> str:
    """What tells this version of an object from another, by the first that its store has."""
    for key in _MARKS:
        if value := info.get(key):
            # A listing and a look at one object may write the same time in two ways.
            same = value.timestamp() if isinstance(value, datetime) else value
            return f"{key}:{same}".replace('"', "")
    return ""


def checksum_of(info: Info) -> str:
    """The digest of an object's content, where its store has one.

    An ETag of S3 is the MD5 of what was put in one piece, unless it is encrypted by a key of KMS.
    """
    if md5 := info.get("md5Hash"):
        return f"md5:{base64.b64decode(md5).hex()}"
    if lfs := info.get("lfs"):
        return f"sha256:{lfs['sha256']}"
    if blob := info.get("blob_id"):
        return f"git:{blob}"
    tag = str(info.get("ETag", "")).strip('"')
    is_md5 = len(tag) == _MD5_DIGITS and set(tag) <= set("0123456789abcdef")
    return f"md5:{tag}" if is_md5 else ""


def has_checksum(file: Path, checksum: str) -> bool:
    """Whether a file has the content of a checksum."""
    kind, _, digits = checksum.partition(":")
    # They tell damage, not malice: who can put another object there can change its MD5 as well.
    hasher = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        hasher.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest() == digits


def differences(before: Listing, now: Listing) -> Mapping[str, int]:
    """How many objects are new, changed and gone."""
    old = {one.name: one for one in before.objects}
    new = {one.name: one for one in now.objects}
    both = old.keys() & new.keys()
    return {
        "new": len(new.keys() - old.keys()),
        "changed": sum(old[name] != new[name] for name in both),
        "gone": len(old.keys() - new.keys()),
    }
