"""What pass two counts for the report, and the file that keeps it."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from plumbline.files import read_json
from plumbline.validation.examples import Cell, read_cells
from plumbline.validation.near_labels import NearLabels

FILE = "counts.json"


class Counts:
    """What pass two counts for the report."""

    def __init__(self, files: Iterable[str]) -> None:
        """Begin at zero for all of the files."""
        self.clean: Counter[str] = Counter()
        """Rows by split."""
        self.reasons: Counter[str] = Counter()
        """Rows in quarantine by reason."""
        zero = {"rows_in": 0, "rows_clean": 0, "rows_quarantined": 0}
        self.files: dict[str, Counter[str]] = {file: Counter(zero) for file in files}
        """Rows by file and by where they went."""
        self.blanked: Counter[str] = Counter()
        """Faulty cells by column that became null in rows that some other view can use."""
        self.cleaned: dict[str, Counter[str]] = {}
        """Cells by column that cleaning changed, by the changes of `CleanText`."""
        self.examples: dict[str, list[dict[str, str | int | None]]] = {}
        """The first rows in quarantine by reason."""
        self.cells: list[Cell] = []
        """What these hold."""
        self.labels = NearLabels()
        """Labels of clean rows, to find those that differ in form only."""
        self.views: Counter[tuple[str, int]] = Counter()
        """Clean rows by split and mask of views."""
        self.parts: dict[str, Counter[str]] = {}
        """Rows by part and by split or `quarantined`, where the data has parts.

        A row in quarantine counts for the part that it names, if that is a name.
        """

    def write(self, folder: Path) -> None:
        """Write all of it into a folder that has the cells of examples."""
        tuples = {"views": [[*key, rows] for key, rows in self.views.items()]}
        plain = {
            **{name: getattr(self, name) for name in _NAMED},
            **tuples,
            "labels": [[*key, rows] for key, rows in self.labels.rows.items()],
            "all_labels": not self.labels.full,
        }
        # In the order in which it was counted, in which the report has it.
        (folder / FILE).write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")


_COUNTERS, _NESTED = ("clean", "reasons", "blanked"), ("files", "cleaned", "parts")
_NAMED = (*_COUNTERS, *_NESTED, "examples")


def read_counts(folder: Path, files: Iterable[str]) -> Counts:
    """What `Counts.write` wrote, and zeros for all `files` that it does not name."""
    counts, found = Counts(files), read_json(folder / FILE)
    for name in _COUNTERS:
        getattr(counts, name).update(found[name])
    for name in _NESTED:
        for key, of_key in found[name].items():
            getattr(counts, name).setdefault(key, Counter()).update(of_key)
    counts.examples.update(found["examples"])
    counts.cells += read_cells(folder)
    counts.views.update({(split, mask): rows for split, mask, rows in found["views"]})
    counts.labels.rows.update({(part, label): rows for part, label, rows in found["labels"]})
    counts.labels.full = not found["all_labels"]
    return counts
