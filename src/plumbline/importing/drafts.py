"""What the command line says of a dataset, and what was recognised of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from plumbline.importing.listing import places_of_splits
from plumbline.importing.plans import Plan
from plumbline.importing.roles import Role
from plumbline.importing.tables import Form, Settings


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
    source: Settings
    """Of the source, but for the following three."""
    plan: Plan
    roles: list[Role]
    rows: int
    exact: bool
    """Whether that is the number itself."""
    columns: dict[str, str] = field(default_factory=dict)
    """Canonical column -> the name in the files."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split -> file, folder or pattern."""
    split_rows: Mapping[str, int] = field(default_factory=dict)
    """Split -> rows of its files, where `splits` names any; `rows` is of all of them."""
    unused: list[str] = field(default_factory=list)
    """Columns of the files that nothing is taken from."""
    notes: list[str] = field(default_factory=list)

    @property
    def prepare(self) -> Settings:
        """The section `prepare` of the dataset."""
        named = {"splits": self.splits, "columns": self.columns}
        return {**self.source, **{name: value for name, value in named.items() if value}}

    def without_group(self, why: str) -> "Draft":
        """The same with no column that says what must not part between splits."""
        name = self.columns["group"]
        return replace(
            self,
            columns={ours: field for ours, field in self.columns.items() if ours != "group"},
            roles=[role for role in self.roles if role.role != "group"],
            unused=[*self.unused, name],
            notes=[*self.notes, f"group: not {name}, {why}"],
        )

    @property
    def made(self) -> set[str]:
        """Canonical columns that rows have."""
        return {*self.plan.needs, *self.columns}


def find_splits(names: Sequence[str], notes: list[str]) -> dict[str, str]:
    """The places of splits that names of files say; what is in none is noted."""
    splits, others = places_of_splits(names)
    if splits:
        told = ", ".join(f"{split} {place}" for split, place in splits.items())
        notes.append(f"splits: names of files say them ({told})")
    if others:
        notes.append(f"{len(others)} files are in no split, such as {others[0]}: not read")
    return splits


def files_setting(source: str, names: Sequence[str], path: Path, *, split: bool) -> Settings:
    """The pattern of files, where that of the source would not find them, or others too."""
    if path.is_file() or source == "parquet":
        return {}
    suffixes = {PurePosixPath(name).suffix for name in names}
    usual = {"csv": ".csv", "jsonl": ".jsonl", "webdataset": ".tar"}[source]
    if len(names) == 1 and not split:
        return {"files": PurePosixPath(names[0]).name}
    return {} if suffixes == {usual} else {"files": f"*{suffixes.pop()}"}
