"""Conversations: the one form that turns have, whatever dialect they were written in.

A cell is compact JSON, `[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]`:
equal conversations are equal bytes.
"""

import json
from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)

NO_TURNS = "!"
"""Begins a cell that holds no turns, but why there are none."""


class Turn(TypedDict):
    """What one side says."""

    role: Role
    content: str


class BadTurns(ValueError):  # noqa: N818  (it says what the value is, not that there is an error)
    """A value that is no conversation; the text says why."""


def dump_turns(turns: Sequence[Turn]) -> str:
    """Write turns as the text of a cell."""
    ordered = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


def parse_turns(text: str) -> list[Turn]:
    """Read the text of a cell; which roles follow each other is not looked at.

    Raises:
        BadTurns: it holds something else.
    """
    if text.startswith(NO_TURNS):
        raise BadTurns(text.removeprefix(NO_TURNS))
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadTurns("not JSON") from None
    if not isinstance(found, list):
        raise BadTurns("not a list of turns")
    return [make_turn(number, entry) for number, entry in enumerate(found, 1)]


def make_turn(number: int, entry: object) -> Turn:
    """Check one turn out of JSON; its other keys are passed over.

    Raises:
        BadTurns: it has no known role, or no text.
    """
    if not isinstance(entry, dict):
        raise BadTurns(f"turn {number}: not an object")
    content = entry.get("content")
    if not isinstance(content, str):
        raise BadTurns(f"turn {number}: its content is no text")
    for role in ROLES:
        if entry.get("role") == role:
            return {"role": role, "content": content}
    raise BadTurns(f"turn {number}: role {str(entry.get('role'))[:40]!r} is none of {_KNOWN}")


_KNOWN = ", ".join(ROLES)


def check_prompt(turns: list[Turn]) -> list[Turn]:
    """Check that the assistant's answer is to come next.

    Raises:
        BadTurns: says what about the order of roles is wrong.
    """
    if disorder := find_disorder([*turns, {"role": "assistant", "content": ""}]):
        raise BadTurns(disorder)
    return turns


def find_disorder(turns: Sequence[Turn]) -> str | None:
    """Say what about the order of roles no template can be relied on to write; None where good.

    In order are: a system turn or none, then user and assistant by turns, at least one of each.
    """
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in spoken:
        return "no turn of the assistant"
    for place, role in enumerate(spoken):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            number = place + 1 + len(roles) - len(spoken)
            return f"turn {number}: {role}, where {expected} is expected"
    return None
