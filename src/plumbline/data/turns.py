"""Conversations: the one form that turns have, whatever dialect they were written in.

A cell is compact JSON, `[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]`:
equal conversations are equal bytes. A turn that shows images has a mark in its text for each of
them, and says which of these marks are images: somebody may have typed one.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal, NotRequired, TypedDict, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)

NO_TURNS = "!"
"""Begins a cell that holds no turns, but why there are none."""


IMAGE_MARK = "\ufffc"
"""Stands for an image in what a turn says: Unicode's character for an object in a text."""

IMAGE_ID = -1
"""Stands for an image among token ids: no token has it."""


class Turn(TypedDict):
    """What one side says."""

    role: Role
    content: str
    images: NotRequired[list[int]]
    """Which of the marks in the content are images, counted from 0, in order; not there: none."""


class BadTurns(ValueError):  # noqa: N818  (it says what the value is, not that there is an error)
    """A value that is no conversation; the text says why."""


def dump_turns(turns: Sequence[Turn]) -> str:
    """Write turns as the text of a cell."""
    ordered = [make_plain(turn) for turn in turns]
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


def make_plain(turn: Turn) -> Turn:
    """The turn with its keys in order, and `images` where it shows any alone."""
    plain: Turn = {"role": turn["role"], "content": turn["content"]}
    return {**plain, "images": turn["images"]} if turn.get("images") else plain


def count_images(turns: Sequence[Turn]) -> int:
    """How many images turns show."""
    return sum(len(turn.get("images", ())) for turn in turns)


def show_places(turn: Turn) -> str:
    """What a turn says, for people to read: `<image>` in the place of each image."""
    marks, shown = find_marks(turn["content"]), turn.get("images", ())
    places = {marks[number] for number in shown}
    said = turn["content"]
    return "".join("<image>" if at in places else said[at] for at in range(len(said)))


def as_parts(turn: Turn) -> dict[str, object]:
    """A turn as chat models are asked: its images as parts of its content."""
    shows = bool(turn.get("images"))
    content = make_parts(cut_at_images(turn)) if shows else turn["content"]
    return {"role": turn["role"], "content": content}


def make_parts(pieces: Sequence[str | None]) -> list[dict[str, str]]:
    """Texts, and None for each image, as parts of content."""
    return [
        {"type": "image"} if said is None else {"type": "text", "text": said} for said in pieces
    ]


def cut_at_images(turn: Turn) -> list[str | None]:
    """What a turn says between its images, and None for each of these; no text there is empty."""
    if not turn.get("images"):
        return [turn["content"]]
    pieces, at = list[str | None](), 0
    marks = find_marks(turn["content"])
    for place in (*(marks[number] for number in turn["images"]), len(turn["content"])):
        if said := turn["content"][at:place]:
            pieces.append(said)
        if place < len(turn["content"]):
            pieces.append(None)
        at = place + 1
    return pieces


def find_marks(content: str) -> list[int]:
    """Where the marks of a text stand, whether they are images or were typed."""
    return [at for at, character in enumerate(content) if character == IMAGE_MARK]


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
        BadTurns: it has no known role, or no text, or shows an image that it may not.
    """
    if not isinstance(entry, dict):
        raise BadTurns(f"turn {number}: not an object")
    content, images = read_content(number, entry.get("content"))
    images = images or _read_images(number, content, entry.get("images"))
    for role in ROLES:
        if entry.get("role") == role:
            if images and role != "user":
                raise BadTurns(f"turn {number}: an image that the {role} shows, which is not read")
            turn: Turn = {"role": role, "content": content}
            return {**turn, "images": images} if images else turn
    raise BadTurns(f"turn {number}: role {str(entry.get('role'))[:40]!r} is none of {_KNOWN}")


def read_content(number: int, value: object) -> tuple[str, list[int]]:
    """A text, or parts of text and images end to end as templates write them.

    Returns:
        The text, and which of its marks are images.

    Raises:
        BadTurns: it is neither.
    """
    if isinstance(value, str):
        return value, []
    if not isinstance(value, list):
        raise BadTurns(f"turn {number}: its content is no text")
    text, marks, images = "", 0, list[int]()
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        said = part.get("text") if isinstance(part, dict) and kind == "text" else None
        if kind in IMAGE_PARTS:
            images.append(marks)
            said = IMAGE_MARK
        if not isinstance(said, str):
            raise BadTurns(f"turn {number}: a part of type {str(kind)[:40]!r} is not read")
        text, marks = text + said, marks + said.count(IMAGE_MARK)
    return text, images


IMAGE_PARTS = ("image", "image_url")
"""Types of parts of content that are images."""


def held_images(content: object) -> Iterator[object]:
    """What parts of content name or hold as their images, in order; None for one that does not.

    `image`, `path`, `base64`, `image_url` or `url` has it, or an object of these with a `url`.
    """
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") in IMAGE_PARTS:
            found = (part.get(key) for key in ("image", "path", "base64", "image_url", "url"))
            held = next(filter(None, found), None)
            yield held.get("url", held) if isinstance(held, dict) else held


def _read_images(number: int, content: str, value: object) -> list[int]:
    """Which marks are images, as `Turn` has it."""
    if value is None:
        return []
    places = value if isinstance(value, list) else [-1]
    numbers = [at for at in places if type(at) is int and 0 <= at < content.count(IMAGE_MARK)]
    if numbers != places or numbers != sorted(set(numbers)):
        raise BadTurns(f"turn {number}: images name marks that its content does not have")
    return numbers


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
