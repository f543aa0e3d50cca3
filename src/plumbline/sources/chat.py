"""Dialects of chat data, brought into turns. A new one is a function here and a line at the end."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from plumbline.config import Config
from plumbline.data.turns import NO_TURNS, BadTurns, Role, Turn, dump_turns
from plumbline.registry import Registry, name_in
from plumbline.sources.encoding import encode_text

Fields = Mapping[str, object]
"""Name of a field in the dialect -> its value, as decoded JSON; None where there is none."""


@dataclass(frozen=True)
class Dialect:
    """How a dialect's rows become turns."""

    read: Callable[[Fields], Iterator[Turn]]
    """Raises `BadTurns` for a row that it cannot read."""
    needed: tuple[str, ...]
    """Fields that a table must have."""
    optional: tuple[str, ...] = ()


DIALECTS: Registry[Dialect] = Registry("chat dialect")


class ChatConfig(Config):
    """Rows are conversations: they become the column `turns`."""

    dialect: Annotated[str, name_in(DIALECTS)]
    fields: dict[str, str] = Field(default_factory=dict)
    """Field of the dialect -> the name that it has in the files, where that is another."""

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
    def names(self) -> set[str]:
        """Names in the files of all fields."""
        return {*self.needed.values(), *self.optional.values()}

    def make_cell(self, record: Mapping[str, object]) -> bytes | None:
        """The cell of the column `turns`: of a row that cannot be read, why; None: nothing there.

        Args:
            record: values by their names in the files.
        """
        named = {**self.needed, **self.optional}
        fields = {ours: record.get(theirs) for ours, theirs in named.items()}
        if all(value is None for value in fields.values()):
            return None
        try:
            return encode_text(dump_turns(list(DIALECTS[self.dialect].read(fields))))
        except BadTurns as error:
            return encode_text(f"{NO_TURNS}{error}")


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
        yield from _turn(role, _content(number, entry.get("content")))


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
    for name in ("image", "images"):
        if fields[name]:
            raise BadTurns(f"{name}: images in turns are not read")
    yield from _turn("system", _text("system", fields["system"]))
    entries = _objects("conversations", fields["conversations"])
    for number, entry in enumerate(entries, 1):
        role = _role(number, entry.get("from"), _SHAREGPT)
        yield from _turn(role, _content(number, entry.get("value")))


def _exchange(asked: str, answered: str) -> Iterator[Turn]:
    yield {"role": "user", "content": asked}
    yield {"role": "assistant", "content": answered}


def _turn(role: Role, content: str) -> Iterator[Turn]:
    """A turn; none for a system that says nothing, as tables write where there is none."""
    if role != "system" or content.strip():
        yield {"role": role, "content": content}


def _role(number: int, name: object, known: Mapping[object, Role]) -> Role:
    role = known.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadTurns(
            f"turn {number}: role {str(name)[:40]!r} is none of {', '.join(map(str, known))}"
        )
    return role


def _content(number: int, value: object) -> str:
    """A text, or the texts of a list of parts, end to end as templates write them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadTurns(f"turn {number}: its content is no text")
    return "".join(_part(number, part) for part in value)


def _part(number: int, part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) and kind == "text" else None
    if not isinstance(text, str):
        raise BadTurns(f"turn {number}: a part of type {str(kind)[:40]!r} is not read")
    return text


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


DIALECTS.register("messages", Dialect(read_messages, needed=("messages",)))
DIALECTS.register(
    "alpaca",
    Dialect(
        read_alpaca,
        needed=("instruction", "output"),
        optional=("input", "system", "history"),
    ),
)
DIALECTS.register(
    "sharegpt",
    Dialect(
        read_sharegpt,
        needed=("conversations",),
        optional=("system", "image", "images"),
    ),
)
