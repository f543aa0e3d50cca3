"""Which canonical column a column of somebody's is: a table of rules, each with its reason."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from plumbline.importing.fields import Field
from plumbline.sources.chat import DIALECTS
from plumbline.sources.files import SPLIT_WORDS

MAX_CLASSES = 1000
"""More different values are no classes, whatever their column is called."""

Test = Callable[[Field, "Rows"], bool]


@dataclass(frozen=True)
class Rows:
    """What is known of the rows while their columns are told apart."""

    media: str
    """`image` or `audio` where a column holds or names them; else empty."""
    taken: Mapping[str, str]
    """Role -> the field that has it already."""
    fields: Sequence[Field]


@dataclass(frozen=True)
class Rule:
    """Fields of such names and such content have a role."""

    role: str
    names: str
    """A pattern of the whole name, in small letters; what it says is half of the reason."""
    holds: Test
    why: str


@dataclass(frozen=True)
class Role:
    """What a field was taken for, and why."""

    role: str
    field: str
    reason: str


def _is(*kinds: str) -> Test:
    return lambda field, rows: field.kind in kinds


def _is_id(field: Field, rows: Rows) -> bool:
    plain = field.kind in ("text", "integer") and field.words < 2
    return plain and field.distinct == len(field.there) == len(field.values)


def _is_split(field: Field, rows: Rows) -> bool:
    words = {str(value).strip().lower() for value in field.there}
    return bool(words) and words <= set(SPLIT_WORDS)


def _is_class(field: Field, rows: Rows) -> bool:
    if field.kind not in ("text", "integer", "bool") or field.words > 6:
        return False
    return bool(field.classes) or 1 <= field.distinct <= min(MAX_CLASSES, len(field.there) // 2 + 1)


def _is_number(field: Field, rows: Rows) -> bool:
    return field.kind in ("integer", "float") and not field.classes and not _is_class(field, rows)


def _is_group(field: Field, rows: Rows) -> bool:
    plain = field.kind in ("text", "integer") and field.words < 4
    return plain and 2 < field.distinct < len(field.there)


def _is_text(field: Field, rows: Rows) -> bool:
    return field.kind in ("text", "integer", "float", "bool", "texts")


def _is_prose(field: Field, rows: Rows) -> bool:
    return field.kind == "texts" or (field.kind == "text" and field.words >= 2)


def _beside_media(test: Test) -> Test:
    return lambda field, rows: bool(rows.media) and test(field, rows)


def _without_media(test: Test) -> Test:
    return lambda field, rows: not rows.media and test(field, rows)


def _is_input(field: Field, rows: Rows) -> bool:
    return not rows.media and _is_text(field, rows)


def _is_output(field: Field, rows: Rows) -> bool:
    return _is_input(field, rows) and not _is_class(field, rows) and field.kind == "text"


def _both_languages(field: Field, rows: Rows) -> bool:
    codes = [one.name for one in rows.fields if re.fullmatch(_LANGUAGES, one.name.lower())]
    return len(codes) == 2 and _is_text(field, rows) and not rows.media


_LANGUAGES = "(ar|cs|da|de|el|en|es|fi|fr|hi|hu|it|ja|ko|nl|no|pl|pt|ro|ru|sv|tr|uk|vi|zh)"
_ANY = ".+"

RULES: tuple[Rule, ...] = (
    Rule("split", "split|subset|partition|set|fold|usage", _is_split, "its values are splits"),
    Rule("sample_id", "id|.*_id|uid|uuid|key|index|idx|__key__", _is_id, "no value comes twice"),
    Rule("question", "question|query|q", _is_text, "it is called so"),
    Rule("answer", "answers?|response|a|multiple_choice_answer", _is_text, "it is called so"),
    Rule("source", "source|src|source_text|document|article", _is_input, "it is called so"),
    Rule(
        "target",
        "target|target_text|tgt|translation|summary|highlights",
        _is_output,
        "it is called so",
    ),
    Rule("source", _LANGUAGES, _both_languages, "two columns are named for languages, the first"),
    Rule("target", _LANGUAGES, _both_languages, "two columns are named for languages, the second"),
    Rule(
        "label",
        "label|labels|label_name|label_text|class|class_name|classname|category|target|y|sentiment"
        "|species|genre|emotion|intent|digit|tag|type|kind|diagnosis|topic|cls|.*[._]label"
        "|.*[._]class",
        _is_class,
        "its values come again and again",
    ),
    Rule(
        "value",
        "value|score|price|rating|age|target|y|label|amount|stars|mos|.*[._]score",
        _is_number,
        "its values are numbers",
    ),
    Rule(
        "group",
        "group|group_id|image_id|photo_id|speaker|speaker_id|subject|subject_id|patient|patient_id"
        "|user|user_id|author|video_id|document_id|session|session_id",
        _is_group,
        "rows share its values",
    ),
    Rule(
        "caption",
        "captions?|text|txt|sentences?|descriptions?|titles?|alt_text|transcripts?|transcriptions?"
        "|raw|prompt|.*[._]caption|.*[._]text",
        _beside_media(_is_text),
        "a text beside a medium",
    ),
    Rule(
        "text",
        "text|txt|sentence|review|content|body|comment|tweet|message|document|paragraph|title"
        "|headline|t",
        _without_media(_is_text),
        "a text alone",
    ),
    Rule("caption", _ANY, _beside_media(_is_prose), "the first text of several words"),
    Rule("text", _ANY, _without_media(_is_prose), "the first text of several words"),
    Rule("features", _ANY, _is("numbers"), "its cells are lists of numbers"),
    Rule(
        "label",
        _ANY,
        lambda field, rows: _is_class(field, rows) and field.repeats() and field.distinct <= 50,
        "few values that come again and again",
    ),
)
"""Tried in this order; a role goes to the first field that a rule fits, a field has one role."""

LACKING = {"question": "answer", "answer": "question", "source": "target", "target": "source"}
"""Roles that are of no use alone -> what they lack then."""


def find_roles(fields: Sequence[Field], media: str, given: Mapping[str, str]) -> list[Role]:
    """Tell what each field is; several may be nothing.

    Args:
        fields: of a table, but for those that hold or name media.
        media: `image` or `audio` where the table has them, else empty.
        given: role -> field, as the command line says; `none` for no field.
    """
    there = {one.name for one in fields}
    found = {role: Role(role, name, "you say so") for role, name in given.items() if name in there}
    left = [one for one in fields if one.name not in given.values()]
    for rule in RULES:
        rows = Rows(media, {role: one.field for role, one in found.items()}, fields)
        if rule.role in found or rule.role in given:
            continue
        taken = {one.field for one in found.values()}
        fits = _fitting(rule, [one for one in left if one.name not in taken], rows)
        if (field := next(fits, None)) is not None:
            found[rule.role] = Role(rule.role, field.name, _reason(rule, field))
    alone = [role for role in found if role in LACKING and LACKING[role] not in found]
    if without := {role: "none" for role in alone if role not in given}:
        return find_roles(fields, media, {**given, **without})
    return list(found.values())


def _fitting(rule: Rule, fields: Sequence[Field], rows: Rows) -> Iterator[Field]:
    for field in fields:
        name = field.name.lower().replace(" ", "_").replace("-", "_")
        if re.fullmatch(rule.names, name) and rule.holds(field, rows):
            yield field


def _reason(rule: Rule, field: Field) -> str:
    if rule.names == _ANY:
        return rule.why
    count = f" ({field.distinct} of them)" if rule.role == "label" else ""
    return f"its name, and {rule.why}{count}"


def find_dialect(fields: Sequence[Field]) -> tuple[str, str] | None:
    """The dialect of chat data that a table is in, and why; None where it is in none."""
    by_name = {one.name: one for one in fields}
    for dialect, shape in (("messages", "role"), ("sharegpt", "from")):
        needed = DIALECTS[dialect].needed[0]
        field = by_name.get(needed)
        if field is not None and field.kind in ("objects", "text"):
            turns = next((v for v in field.there if isinstance(v, list) and v), None)
            if turns is None or (isinstance(turns[0], dict) and shape in turns[0]):
                return dialect, f"{needed} holds turns of {shape}"
    if all(name in by_name for name in DIALECTS["alpaca"].needed):
        return "alpaca", "it has instruction and output"
    return None
