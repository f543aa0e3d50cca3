"""What the command line says of a dataset, and what was recognised of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumbline.importing.listing import places_of_splits
from plumbline.importing.plans import Plan
from plumbline.importing.roles import Role
from plumbline.importing.tables import Form


@dataclass(frozen=True)
class Asked:
    """What the command line says; what it leaves out is guessed."""

    roles: Mapping[str, str] = field(default_factory=dict)
    """Canonical column -> the name in the files, or `none`."""
    form: Form = field(default_factory=Form)
    task: str | None = None


@dataclass
class Draft:
    """What was recognised: a source with its settings, and why."""

    layout: str
    path: Path
    prepare: dict[str, Any]
    plan: Plan
    roles: list[Role]
    unused: list[str]
    rows: int
    exact: bool
    notes: list[str] = field(default_factory=list)


def find_splits(names: Sequence[str], notes: list[str]) -> dict[str, str]:
    """The places of splits that names of files say; what is in none is noted."""
    splits, others = places_of_splits(names)
    if splits:
        told = ", ".join(f"{split} {place}" for split, place in splits.items())
        notes.append(f"splits: names of files say them ({told})")
    if others:
        notes.append(f"{len(others)} files are in no split, such as {others[0]}: not read")
    return splits
