"""What splits have in common and should not: what is done about it, and how it is told."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypedDict

from pydantic import Field

from plumbline.config import Config
from plumbline.data.columns import MEDIA, SHOWN, TEXTS

Policy = Literal["report", "drop", "refuse"]


class LeakConfig(Config):
    """What is done about content that stands in more than one split.

    `drop` takes the rows from train before val before test, `report` counts them, and `refuse` ends
    the stage. A split that is drawn here has none: rows of equal content share a place in the draw,
    near duplicates may be drawn apart.
    """

    media: Policy = "drop"
    """About an image, clip or array; one that is shown in turns too."""
    texts: Policy = "report"
    """About rows without one of which all texts are equal."""
    near_images: Policy | None = None
    """About images that were encoded again, resized, mirrored or cropped by up to a tenth; null
    does not look for them."""
    near_texts: Policy | None = None
    """About rows without a medium whose texts differ in case, punctuation or a few words; null
    does not look for them."""
    near_match: float = Field(default=0.98, gt=0.5, le=1.0)
    """Least correlation of brightness between near duplicates of an image."""
    near_overlap: float = Field(default=0.8, ge=0.5, le=1.0)
    """Least share of the runs of five characters of two near duplicates that both have."""

    def refuses(self, what: str) -> bool:
        """Whether content of a kind that stands in several splits ends the stage."""
        return bool(getattr(self, what, None) == "refuse")


def medium_digest(column: str, value: bytes) -> bytes:
    """Digest of an image, clip or array, which begins with a byte for the column."""
    return bytes([MEDIA.index(column)]) + hashlib.blake2b(value, digest_size=16).digest()


class Place(TypedDict):
    """A row of the raw table."""

    file: str
    row: int


class Example(TypedDict):
    """A row, and one of the other split with the same content."""

    row: Place
    other: Place


class Leak(TypedDict):
    """Rows of one split whose content is in another one too."""

    what: str
    """`media`, `texts` (all of a row's), `near_images`, `near_texts`, or the column whose cells
    are compared alone."""
    split: str
    other: str
    rows: int
    """Of `split`."""
    of: int
    """Rows of `split` that have such content."""
    examples: list[Example]
    """The first; none where cells are compared alone."""


class SharedRows(NamedTuple):
    """What is counted of a pair of splits."""

    split: str
    other: str
    rows: int
    of: int
    examples: list[tuple[int, int]]
    """Numbers of rows."""


def compared_texts(columns: Sequence[str]) -> list[str]:
    """Columns of texts of which cells that stand in several splits are counted."""
    texts = [name for name in columns if name in TEXTS]
    if len(texts) == 1 and not set(SHOWN) & set(columns):
        return []  # the cell is all that a row says: its rows are compared
    return texts


SPLIT_PAIRS = (("test", "val"), ("test", "train"), ("val", "train"))
"""Splits in which a row should meet nothing of the other one."""


def describe_leaks(
    what: str, shared: Iterable[SharedRows], place: Callable[[int], Place]
) -> Iterator[Leak]:
    """What is counted of rows, for the report.

    Args:
        what: `media`, `texts`, `near_images` or `near_texts`.
        shared: counts and examples by pair of splits.
        place: from a row's number to where it stands.
    """
    for found in shared:
        yield Leak(
            what=what,
            split=found.split,
            other=found.other,
            rows=found.rows,
            of=found.of,
            examples=[Example(row=place(one), other=place(other)) for one, other in found.examples],
        )


def tell_leaks(leaks: Sequence[Leak]) -> Iterator[str]:
    """A line for each pair of splits with rows of the same content.

    Of questions, answers and captions alone only the report says how many: they may well repeat.
    """
    whole = {(leak["split"], leak["other"], leak["rows"]) for leak in leaks if _of_rows(leak)}
    for leak in leaks:
        what, split, other = leak["what"], leak["split"], leak["other"]
        share = f"{leak['rows']:,} of {leak['of']:,}"
        if _of_rows(leak):
            yield (
                f"{what} of {share} rows of {split} are in {other} too "
                f"(validate.leaks.{what}: drop takes them from {other})"
            )
        elif what in ("text", "source", "target") and (split, other, leak["rows"]) not in whole:
            yield f"{share} cells {what} of {split} stand in {other} too"


def _of_rows(leak: Leak) -> bool:
    return leak["what"] in LeakConfig.model_fields
