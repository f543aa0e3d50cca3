"""The columns of somebody's tables: a sample of what they hold, and what kind of thing that is."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

from plumbline.data.audio_headers import sniff_audio
from plumbline.data.image_headers import sniff_format
from plumbline.sources.folders import AudioFolderSource, ImageFolderSource
from plumbline.sources.media_cells import decode_base64, is_url

Kind = Literal[
    "empty",
    "image",
    "audio",
    "image name",
    "audio name",
    "image base64",
    "audio base64",
    "text",
    "integer",
    "float",
    "bool",
    "texts",
    "numbers",
    "objects",
    "bytes",
    "mixed",
]
"""What a column holds; a name is that of a file."""

MEDIA_SUFFIXES: Mapping[str, frozenset[str]] = {
    "image": ImageFolderSource.suffixes,
    "audio": AudioFolderSource.suffixes,
}

_INTEGER = re.compile(r"[+-]?\d{1,18}(\.0+)?", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_=\-\s]{64,}")
_LOOK = 64
"""Cells whose kind is looked at closely."""
_MOST = 0.95
"""Share of the cells that decides on a kind."""


@dataclass
class Field:
    """A column as its files have it."""

    name: str
    values: list[object]
    """Those of the sampled rows; None where there is none."""
    classes: list[str] = field(default_factory=list)
    """The names of its numbers, where the files say them."""

    @cached_property
    def there(self) -> list[object]:
        """The values that are any."""
        return [value for value in self.values if value is not None and value not in ("", b"")]

    @cached_property
    def distinct(self) -> int:
        """Different values."""
        return len({repr(value) for value in self.there})

    @cached_property
    def kind(self) -> Kind:
        """What most of its cells are."""
        if not self.there:
            return "empty"
        kinds = [_kind_of(value) for value in self.there[:_LOOK]]
        for names, kind in _TOGETHER:
            if sum(found in names for found in kinds) >= _MOST * len(kinds):
                return kind
        return "mixed"

    @cached_property
    def words(self) -> float:
        """Words of a cell on average, of texts."""
        return sum(len(str(value).split()) for value in self.there) / max(1, len(self.there))

    @cached_property
    def chars(self) -> int:
        """Characters that nineteen of twenty cells have at most."""
        lengths = sorted(len(text) for value in self.there for text in _texts_of(value))
        return lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0

    def repeats(self) -> bool:
        """Whether values come again and again, as those of classes do."""
        return 1 < self.distinct <= max(2, min(1000, len(self.there) // 2))

    def shown(self) -> str:
        """An example, short."""
        value = self.there[0] if self.there else ""
        return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:40]


def _texts_of(value: object) -> Iterable[str]:
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return (text for one in inner for text in _texts_of(one))
    return (str(value),)


def medium_of(start: bytes) -> Literal["image", "audio"] | None:
    """What an encoded file is, by its first bytes."""
    if sniff_format(start) is not None:
        return "image"
    return "audio" if sniff_audio(start) is not None else None


def medium_of_name(name: str) -> Literal["image", "audio"] | None:
    """What a file is, by its ending."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix in MEDIA_SUFFIXES["image"]:
        return "image"
    return "audio" if suffix in MEDIA_SUFFIXES["audio"] else None


_ALONE: tuple[Kind, ...] = (
    *("image", "audio", "image name", "audio name", "image base64", "audio base64"),
    *("bytes", "bool", "integer", "objects", "texts", "numbers"),
)
_TOGETHER: tuple[tuple[frozenset[Kind], Kind], ...] = (
    *((frozenset[Kind]({kind}), kind) for kind in _ALONE),
    (frozenset({"integer", "float"}), "float"),
    # A number is a word of a text as well, and so is what looks like a name.
    (frozenset({"text", "integer", "float", "image name", "audio name"}), "text"),
)
"""What cells may be together -> what their column is; the first that fits."""


def _kind_of(value: object) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() or value != value else "float"
    if isinstance(value, bytes):
        return medium_of(value[:4096]) or "bytes"
    if isinstance(value, str):
        return _kind_of_text(value)
    if isinstance(value, dict):
        return _kind_of_object(value)
    if isinstance(value, list):
        return _kind_of_list(value)
    return "mixed"


def _kind_of_object(value: Mapping[object, object]) -> Kind:
    """Of an object that holds a medium, as hubs have it."""
    held, path = value.get("bytes"), value.get("path")
    if isinstance(held, bytes) and held:
        return medium_of(held[:4096]) or "bytes"
    found = medium_of_name(path) if isinstance(path, str) else None
    return found or "objects"


def _kind_of_list(value: list[object]) -> Kind:
    if value and all(isinstance(one, str) for one in value):
        return "texts"
    if value and all(isinstance(one, dict) for one in value):
        return "objects"
    flat = [two for one in value for two in (one if isinstance(one, list) else [one])]
    return "numbers" if flat and all(type(one) in (int, float) for one in flat) else "mixed"


def _kind_of_text(text: str) -> Kind:
    plain = text.strip()
    if _INTEGER.fullmatch(plain):
        return "integer"
    if _FLOAT.fullmatch(plain):
        return "float"
    if plain.lower() in ("true", "false"):
        return "bool"
    start = plain[:2048].encode("utf-8", "replace")
    if is_url(plain) or _BASE64.fullmatch(start):
        found = medium_of(decode_base64(_whole_quads(start)))
        if found:
            return "image base64" if found == "image" else "audio base64"
    if len(plain) < 1000 and "\n" not in plain and (found := medium_of_name(plain)):
        return "image name" if found == "image" else "audio name"
    return "text"


def _whole_quads(start: bytes) -> bytes:
    """So much of base64 as can be decoded by itself, behind the comma of a URL."""
    plain = b"".join((start.partition(b",")[2] or start).split())
    return plain[: len(plain) // 4 * 4]
