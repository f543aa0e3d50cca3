"""Dialects of chat data, brought into turns. A new one is a function here and a line at the end."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.data.columns import MAX_CELL_BYTES
from plumbline.data.image_lists import pack_images
from plumbline.data.turns import (
    IMAGE_MARK,
    NO_TURNS,
    BadTurns,
    Role,
    Turn,
    count_images,
    dump_turns,
    find_marks,
    held_images,
    read_content,
)
from plumbline.registry import Registry, name_in
from plumbline.sources.encoding import encode_text
from plumbline.sources.rows import Row

Fields = Mapping[str, object]
"""Name of a field in the dialect -> its value, as decoded JSON; None where there is none."""

Load = Callable[[object], bytes | None]
"""From an image as a row has it (its bytes, or what names it) to its bytes; None: not there."""

PLACE = "<image>"
"""Stands for an image in what a user says, where the row lists images."""


@dataclass(frozen=True)
class Dialect:
    """How a dialect's rows become turns."""

    read: Callable[[Fields], Iterator[Turn]]
    """Raises `BadTurns` for a row that it cannot read."""
    needed: tuple[str, ...]
    """Fields that a table must have."""
    optional: tuple[str, ...] = ()
    within: Callable[[Fields], Iterator[object]] | None = None
    """Images that stand in the turns themselves, in the order of their places."""


DIALECTS: Registry[Dialect] = Registry("chat dialect")


class ChatConfig(Config):
    """Rows are conversations: they become the column `turns`, and `images` that they show."""

    dialect: Annotated[str, name_in(DIALECTS)]
    """The form that the conversations have in the files."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Field of the dialect -> the name that it has in the files, where that is another."""
    images: bool | Literal["ignored"] = False
    """Whether turns may show images; where not, rows that do are filed, or read without them."""

    @model_validator(mode="after")
    def _fields_exist(self) -> "ChatConfig":
        dialect = DIALECTS[self.dialect]
        known = (*dialect.needed, *dialect.optional)
        if unknown := sorted(set(self.fields) - set(known)):
            raise ValueError(
                f"{self.dialect} has no field {unknown[0]!r}; it has {', '.join(known)}"
            )
        return self

    @property
    def needed(self) -> dict[str, str]:
        """Field that every table has -> its name in the files."""
        return {name: self.fields.get(name, name) for name in DIALECTS[self.dialect].needed}

    @property
    def optional(self) -> dict[str, str]:
        """Field that a table may have -> its name in the files."""
        return {name: self.fields.get(name, name) for name in DIALECTS[self.dialect].optional}

    @property
    def all_names(self) -> list[str]:
        """Names in the files of all fields, in the order of the dialect."""
        return [*self.needed.values(), *self.optional.values()]

    @property
    def names(self) -> set[str]:
        """The same without order."""
        return set(self.all_names)

    def make_cells(self, record: Mapping[str, object], load: Load) -> Row:
        """The cells of `columns`; that of `turns` says why where a row cannot be read.

        Args:
            record: values by their names in the files.
            load: reads an image.
        """
        fields = self._fields(record)
        nothing: Row = dict.fromkeys(self.columns)
        if all(value is None for value in fields.values()):
            return nothing
        try:
            turns, images = list(DIALECTS[self.dialect].read(fields)), self.shown_images(record)
            if _listed(fields):
                turns = [_mark_places(turn) for turn in turns]
            if self.images == "ignored":
                turns, images = list(map(_without_images, turns)), []
            _check_images(images, turns, read=self.images is True)
        except BadTurns as error:
            return {**nothing, "turns": encode_text(f"{NO_TURNS}{error}")}
        cells = {**nothing, "turns": encode_text(dump_turns(turns))}
        return {**cells, "images": pack_images(_load(images, load))} if images else cells

    def shown_images(self, record: Mapping[str, object]) -> list[object]:
        """What a record holds or names as the images that its turns show, in their order.

        Raises:
            BadTurns: they stand where no list is.
        """
        fields, dialect = self._fields(record), DIALECTS[self.dialect]
        return _listed(fields) or list(dialect.within(fields) if dialect.within else ())

    def _fields(self, record: Mapping[str, object]) -> Fields:
        named = {**self.needed, **self.optional}
        return {ours: record.get(theirs) for ours, theirs in named.items()}

    @property
    def columns(self) -> frozenset[str]:
        """Canonical columns that are made."""
        return frozenset({"turns", "images"} if self.images is True else {"turns"})


def _load(images: Sequence[object], load: Load) -> list[bytes | None]:
    """All images; none behind those that are too many already, which validation refuses."""
    loaded, size = list[bytes | None](), 0
    for image in images:
        loaded.append(load(image) if size <= MAX_CELL_BYTES else None)
        size += len(loaded[-1] or b"")
    return loaded


def _check_images(images: Sequence[object], turns: Sequence[Turn], *, read: bool) -> None:
    if (images or count_images(turns)) and not read:
        raise BadTurns("images in turns are not read; set chat.images")
    if any(isinstance(image, str) and image[:8].lower().startswith(_ADDRESSES) for image in images):
        raise BadTurns("an image is named by an address on a network, which is not fetched")


_ADDRESSES = ("http:", "https:")
_OPENAI: Mapping[object, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_SHAREGPT: Mapping[object, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
_UNREAD = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "audio")
"""Keys of a message that hold what it says beside its content."""


def read_messages(fields: Fields) -> Iterator[Turn]:
    """`messages`: objects of role and content; content is a text or a list of parts."""
    for number, entry in enumerate(_objects("messages", fields["messages"]), 1):
        if held := [key for key in _UNREAD if entry.get(key)]:
            raise BadTurns(f"turn {number}: holds {held[0]}, which is not read")
        if entry.get("weight") == 0:
            raise BadTurns(f"turn {number}: has weight 0, which is not read")
        role = _role(number, entry.get("role"), _OPENAI)
        yield from _turn(role, *read_content(number, entry.get("content")))


def images_within(fields: Fields) -> Iterator[object]:
    """Images of the parts of messages."""
    for entry in _objects("messages", fields["messages"]):
        yield from held_images(entry.get("content"))


def read_alpaca(fields: Fields) -> Iterator[Turn]:
    """`instruction`, `input`, `output`: one exchange, after those of `history` (pairs of texts)."""
    yield from _turn("system", _text("system", fields["system"]))
    for number, pair in enumerate(_list("history", fields["history"]), 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadTurns(f"history: entry {number} is no pair of texts")
        yield from _exchange(_text("history", pair[0]), _text("history", pair[1]))
    asked = [_text(name, fields[name]) for name in ("instruction", "input")]
    yield from _exchange("\n".join(filter(None, asked)), _text("output", fields["output"]))


def read_sharegpt(fields: Fields) -> Iterator[Turn]:
    """`conversations`: objects of from and value; `system` beside them."""
    yield from _turn("system", _text("system", fields["system"]))
    entries = _objects("conversations", fields["conversations"])
    for number, entry in enumerate(entries, 1):
        role = _role(number, entry.get("from"), _SHAREGPT)
        yield from _turn(role, *read_content(number, entry.get("value")))


def _exchange(asked: str, answered: str) -> Iterator[Turn]:
    yield {"role": "user", "content": asked}
    yield {"role": "assistant", "content": answered}


def _turn(role: Role, content: str, images: list[int] | None = None) -> Iterator[Turn]:
    """A turn; none for a system that says nothing, as tables write where there is none."""
    if images and role != "user":
        raise BadTurns(f"an image that the {role} shows, which is not read")
    if role != "system" or content.strip():
        turn: Turn = {"role": role, "content": content}
        yield {**turn, "images": images} if images else turn


def _listed(fields: Fields) -> list[object]:
    """The images that a row has beside its turns."""
    found: list[object] = []
    for name in IMAGE_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _list(name, value)
        # A name alone, or one file as tables of the hub have it: an object of bytes and path.
        found += value if isinstance(value, list) else [value] if value else []
    return found


def _mark_places(turn: Turn) -> Turn:
    """The turn with a mark where a user's text has `PLACE`, beside the images that it shows."""
    if turn["role"] != "user" or PLACE not in turn["content"]:
        return turn
    shown = [find_marks(turn["content"])[number] for number in turn.get("images", ())]
    pieces = re.split(f"({PLACE}|{IMAGE_MARK})", turn["content"])
    images, marks, at = list[int](), 0, 0
    for number, piece in enumerate(pieces):
        if piece in (PLACE, IMAGE_MARK):
            if piece == PLACE or at in shown:
                images.append(marks)
            pieces[number], marks = IMAGE_MARK, marks + 1
        at += len(piece)
    return {"role": turn["role"], "content": "".join(pieces), "images": images}


def _without_images(turn: Turn) -> Turn:
    """The turn without the places of its images, and the blank around them."""
    if not turn.get("images"):
        return turn
    marks, pieces, start = find_marks(turn["content"]), list[str](), 0
    for place in (marks[number] for number in turn["images"]):
        pieces.append(turn["content"][start:place].strip())
        start = place + len(IMAGE_MARK)
    pieces.append(turn["content"][start:].strip())
    return {"role": turn["role"], "content": "\n".join(filter(None, pieces))}


def _role(number: int, name: object, known: Mapping[object, Role]) -> Role:
    role = known.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadTurns(
            f"turn {number}: role {str(name)[:40]!r} is none of {', '.join(map(str, known))}"
        )
    return role


def _text(name: str, value: object) -> str:
    """A text; nothing where there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadTurns(f"{name}: no text")
    return value


def _list(name: str, value: object) -> list[object]:
    """A list; tables of texts write it as JSON."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadTurns(f"{name}: a text that is not JSON") from None
    if not value:
        return []
    if not isinstance(value, list):
        raise BadTurns(f"{name}: not a list")
    return value


def _objects(name: str, value: object) -> Iterator[Mapping[str, object]]:
    for number, entry in enumerate(_list(name, value), 1):
        if not isinstance(entry, dict):
            raise BadTurns(f"{name}: entry {number} is no object")
        yield entry


IMAGE_FIELDS = ("image", "images")
DIALECTS.register(
    "messages",
    Dialect(read_messages, needed=("messages",), optional=IMAGE_FIELDS, within=images_within),
)
DIALECTS.register(
    "alpaca",
    Dialect(
        read_alpaca,
        needed=("instruction", "output"),
        optional=("input", "system", "history", *IMAGE_FIELDS),
    ),
)
DIALECTS.register(
    "sharegpt",
    Dialect(
        read_sharegpt,
        needed=("conversations",),
        optional=("system", *IMAGE_FIELDS),
    ),
)
