"""What a proposal is made for, and what it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline.importing.drafts import Draft
from plumbline.importing.sizes import Sizes
from plumbline.importing.tables import Settings


@dataclass(frozen=True)
class Proposal:
    """Settings beside those of the dataset's source, and what they come to in words."""

    words: str
    task: Settings | None = None
    align: Settings | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    """Group of `conf/` that a section of the task begins with -> its file."""
    optim: str = "adamw"
    """The file of `conf/optim` that the task's training begins with."""
    source: Settings = field(default_factory=dict)
    """What the dataset's source makes of the columns beside."""
    notes: tuple[str, ...] = ()
    """On that."""


@dataclass(frozen=True)
class Subject:
    """What is proposed for."""

    name: str
    draft: Draft
    sizes: Sizes
    split: str
    """That is measured."""
    rules: Settings
    """Of validation, beside views and splits."""
    validates: bool
    """Whether there will be a validation split."""


def trainer(subject: Subject, epochs: int, **more: object) -> Settings:
    """Section `trainer`; validation five times, where there is a split for it."""
    every = max(1, epochs // 5) if subject.validates else 0
    return {"epochs": epochs, "validate_every_epochs": every, **more}
