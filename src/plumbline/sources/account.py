"""What became of a dataset's files before there were rows: published beside the raw rows."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from plumbline.files import dump_json
from plumbline.paths import ACCOUNT
from plumbline.sources.base import Source
from plumbline.sources.files import is_ours, list_files
from plumbline.sources.tally import FILES, Tally

_HIDDEN = "passed over: hidden, since a name in their path begins with . or _"


@dataclass(frozen=True)
class Account:
    """What `prepare` has to say of a source that it has read to its end."""

    rows: int
    files: Tally
    """Files that no row was made of."""
    content: Tally
    """Rows and cells that are broken, or not what they should be."""

    @property
    def warnings(self) -> list[str]:
        """A line for each kind, with the first of it and the remedy."""
        return [*self.files.lines(), *self.content.lines()]

    @property
    def counts(self) -> list[tuple[int, str, str]]:
        """How many of which unit, and what became of them."""
        noted = ((self.files, "passed over"), (self.content, "with faults"))
        return [(tally.count(unit), unit, what) for tally, what in noted for unit in tally.units]

    def facts(self) -> dict[str, int]:
        """The numbers for the run record."""
        named = {f"{unit} {what}".replace(" ", "_"): number for number, unit, what in self.counts}
        return {"rows": self.rows, **named}

    def plain(self) -> dict[str, object]:
        """The account as JSON types."""
        return {
            "rows": self.rows,
            "passed_over": self.files.account(),
            "with_faults": self.content.account(),
        }


def make_account(root: Path, source: Source, rows: int) -> Account:
    """Sum up a source that has been read to its end; lists the dataset's folder once more."""
    return Account(rows, count_passed_over(root, source), source.tally)


def count_passed_over(root: Path, source: Source) -> Tally:
    """Count the files below a dataset's path that a source makes no rows of, by why not."""
    tally = Tally()
    for name in list_files(root):
        why = source.passes_over(name)
        if not all(map(is_ours, PurePosixPath(name).parts)):
            if why is None:
                tally.add(FILES, _HIDDEN, name, "rename them to have them read")
        elif why:
            tally.add(FILES, why, name, "take them out, or change the source's settings")
    return tally


def write_account(account: Account, out: Path) -> None:
    """Write it into the folder of the raw rows."""
    (out / ACCOUNT).write_text(dump_json(account.plain()), encoding="utf-8")
