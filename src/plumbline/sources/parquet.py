"""Source `parquet`: somebody's Parquet files, brought into the canonical columns.

Values pass through unread: whether a cell is any good is for `validate` to say.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.data.columns import CANONICAL
from plumbline.data.parquet import check_schema, iter_batches, list_parquet
from plumbline.errors import ConfigError, DataError


class CaptionRule(Config):
    r"""Make a caption from a row whose question and answer match two patterns.

    `\1` in the template is the first group of the question's pattern, `{answer}` the answer.
    """

    question: str
    answer: str = ".+"
    caption: str

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


class ParquetConfig(Config):
    """Where the files lie below the dataset's path, and what their columns are called."""

    splits: dict[str, str] = Field(default_factory=dict)
    """Split name (train, val, test) -> file or folder. Empty: all files, split by hash."""
    columns: dict[str, str]
    """Canonical column -> the name that it has in the files."""
    captions: list[CaptionRule] = Field(default_factory=list)
    """For data without captions: the first rule that matches a row makes its caption."""

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, splits: dict[str, str]) -> dict[str, str]:
        if unknown := set(splits) - {"train", "val", "test"}:
            raise ValueError(f"unknown split {sorted(unknown)[0]!r}; one of train, val, test")
        return splits

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := set(columns) - set(CANONICAL):
            raise ValueError(
                f"unknown canonical column {sorted(unknown)[0]!r}; one of {', '.join(CANONICAL)}"
            )
        if "sample_id" not in columns:
            raise ValueError("sample_id is needed: every rejected row is reported by its id")
        return columns


def read_parquet(config: ParquetConfig, path: Path) -> Iterator[pa.RecordBatch]:
    """Yield every row of the files in the canonical columns, with its split where one is given.

    Raises:
        ConfigError: the path does not exist.
        DataError: no input files, an unreadable file, or columns other than configured.
    """
    if not path.exists():
        raise ConfigError(
            f"{path.as_posix()}: no such file or folder; set the dataset's path (PLUMBLINE_DATA)"
        )
    places = {split: path / name for split, name in config.splits.items()} or {"": path}
    wanted = {theirs: CANONICAL[ours] for ours, theirs in config.columns.items()}
    files = {split: list_parquet(place) for split, place in places.items()}
    check_schema([file for group in files.values() for file in group], wanted)
    for split, group in files.items():
        for file in group:
            for batch in iter_batches(file, list(wanted)):
                yield _canonical(batch, split, config)


def _canonical(batch: pa.RecordBatch, split: str, config: ParquetConfig) -> pa.RecordBatch:
    columns = {ours: batch.column(theirs) for ours, theirs in config.columns.items()}
    if split:
        columns["split"] = pa.array([split.encode()] * batch.num_rows, pa.binary())
    if config.captions:
        if "question" not in columns or "answer" not in columns:
            raise DataError("captions are made from question and answer: map both columns")
        columns["caption"] = _make_captions(columns["question"], columns["answer"], config.captions)
    # A view, not a cast: text that is not UTF-8 must reach validation as it is.
    return pa.RecordBatch.from_pydict(
        {name: column.view(CANONICAL[name]) for name, column in columns.items()}
    )


def _make_captions(
    questions: pa.Array, answers: pa.Array, rules: list[CaptionRule]
) -> pa.BinaryArray:
    compiled = [(re.compile(r.question), re.compile(r.answer), r.caption) for r in rules]
    made: dict[tuple[bytes | None, bytes | None], bytes | None] = {}
    captions = []
    for pair in zip(questions.to_pylist(), answers.to_pylist(), strict=True):
        if pair not in made:
            made[pair] = _caption_for(*pair, compiled)
        captions.append(made[pair])
    return pa.array(captions, pa.binary())


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
