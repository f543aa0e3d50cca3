"""What an evaluation left, put into blocks: each has a title and a template that draws it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from plumbline.report.first_figures import Details
from plumbline.report.samples import Key, Samples, Subject


@dataclass(frozen=True)
class Block:
    """A piece of a task's section."""

    template: Literal["cards", "grid", "confusion", "scatter", "reliability", "texts", "looks"]
    """templates/block_<this>.html.j2 draws it."""
    title: str
    content: object
    part: str = ""
    note: str = ""
    narrow: bool = False
    """It can stand beside another one."""


@dataclass(frozen=True)
class Scene:
    """What the blocks of a task need beside their own rows."""

    anchor: str
    """Unique on the page, letters, digits and dashes: ids begin with it."""
    folder: Path
    """Where the whole of what is shown in part stands."""
    samples: Samples
    details: Details
    shown: int = 8
    """Predictions of each sort."""


@dataclass(frozen=True)
class Column:
    """A column of a grid."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as printed."""

    columns: list[Column]
    rows: list[list[str]]
    bars: list[float] | None = None
    """Per row a length from 0 to 1, drawn before the last column."""
    folded: bool = False
    """It takes a click to see it: for a long one beside others."""


@dataclass(frozen=True)
class Card:
    """One prediction with what it is about."""

    subject: Subject
    prompt: str
    prediction: str
    references: list[str]
    right: bool | None
    """None: it is not told by itself whether it is right."""
    confidence: str = ""


@dataclass(frozen=True)
class Shown:
    """A prediction that may come to the page."""

    key: Key
    prediction: str
    references: list[str] = field(default_factory=list)
    prompt: str = ""
    correct: bool = False
    confidence: float | None = None

    def card(self, samples: Samples, *, told: bool = True) -> Card:
        """Look up what it is about; `told` says that right and wrong are marked."""
        return Card(
            subject=samples.subject(self.key, self.prompt),
            prompt=self.prompt,
            prediction=self.prediction,
            references=self.references,
            right=self.correct if told else None,
            confidence="" if self.confidence is None else f"{100 * self.confidence:.1f} %",
        )


def by_part(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    """Blocks by part; what belongs to none comes first, then the parts by name."""
    parts: dict[str, list[Block]] = {"": []}
    for block in blocks:
        parts.setdefault(block.part, []).append(block)
    return dict(sorted(parts.items()))
