"""Captions of rows that have questions and answers alone, by patterns of both."""

import re
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import pyarrow as pa
from pydantic import field_validator, model_validator

from plumbline.config import Config
from plumbline.sources.rows import from_columns


class CaptionRule(Config):
    r"""Make a caption from a row whose question and answer match two patterns.

    `\1` in the template is the first group of the question's pattern, `{answer}` the answer.
    """

    question: str
    """A regular expression for the whole question."""
    answer: str = ".+"
    """A regular expression for the whole answer."""
    caption: str
    """The template of the caption."""

    @field_validator("question", "answer")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return pattern

    @model_validator(mode="after")
    def _groups_exist(self) -> "CaptionRule":
        try:
            re.compile(f"(?:{self.question})|").fullmatch("").expand(self.caption)  # type: ignore[union-attr]
        except (re.error, IndexError) as error:
            raise ValueError(f"caption {self.caption!r} does not fit question ({error})") from None
        return self


CaptionRules: TypeAlias = list[CaptionRule]


def check_captions(rules: CaptionRules, columns: AbstractSet[str]) -> None:
    """Check that a source has what captions are made from, and none that it has already.

    Raises:
        ValueError: says what is missing, or there twice.
    """
    if rules and not {"question", "answer"} <= columns:
        raise ValueError("captions are made from question and answer: map both columns")
    if rules and "caption" in columns:
        raise ValueError("captions make the column caption, which columns has already")


def fill_captions(batch: pa.RecordBatch, rules: CaptionRules) -> pa.RecordBatch:
    """Add the captions that rules make; null where no rule matches. Without a rule the same."""
    if not rules:
        return batch
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    compiled = [(re.compile(r.question), re.compile(r.answer), r.caption) for r in rules]
    made: dict[tuple[bytes | None, bytes | None], bytes | None] = {}
    captions = []
    # As bytes: text is not looked at before validation, and may be anything but UTF-8.
    asked, told = (columns[name].view(pa.binary()) for name in ("question", "answer"))
    for pair in zip(asked.to_pylist(), told.to_pylist(), strict=True):
        if pair not in made:
            made[pair] = _caption_for(*pair, compiled)
        captions.append(made[pair])
    return from_columns({**columns, "caption": pa.array(captions, pa.binary())})


def _caption_for(
    question: bytes | None,
    answer: bytes | None,
    rules: list[tuple[re.Pattern[str], re.Pattern[str], str]],
) -> bytes | None:
    try:
        asked, told = (question or b"").decode(), (answer or b"").decode()
    except UnicodeDecodeError:
        return None
    for question_pattern, answer_pattern, template in rules:
        match = question_pattern.fullmatch(asked)
        if match and answer_pattern.fullmatch(told):
            return match.expand(template).replace("{answer}", told).encode()
    return None
