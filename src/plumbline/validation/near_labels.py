"""Classes that a reader would take for one: they differ by case, blanks or Unicode form only."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

MAX_LABELS = 10_000
"""Labels of all parts that are compared; with more, labels are hardly the names of classes."""
_EXAMPLES = 3


class NearLabels:
    """Counts the labels of clean rows by part, as long as there are not too many."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._rows: Counter[tuple[str, str]] = Counter()
        self._full = False

    def add(self, part: str, label: str, rows: int) -> None:
        """Count rows with a label; of more labels than are compared, the first are."""
        if (part, label) in self._rows or len(self._rows) < MAX_LABELS:
            self._rows[part, label] += rows
        else:
            self._full = True

    def groups(self) -> list[tuple[str, dict[str, int]]]:
        """Part, and labels with their rows, of each group that folds to one; sorted."""
        folded: dict[tuple[str, str], dict[str, int]] = {}
        for (part, label), rows in sorted(self._rows.items()):
            folded.setdefault((part, fold(label)), {})[label] = rows
        return [(part, labels) for (part, _), labels in folded.items() if len(labels) > 1]

    def warnings(self) -> list[str]:
        """A line for each part that has such labels: how many groups, and examples with rows."""
        by_part: dict[str, list[dict[str, int]]] = {}
        for part, labels in self.groups():
            by_part.setdefault(part, []).append(labels)
        warnings = [
            f"labels{f' of part {part}' if part else ''} that differ by case, blanks or Unicode "
            f"form only: {_describe(groups)}; if they are one class, write them alike"
            for part, groups in by_part.items()
        ]
        if self._full:
            warnings.append(f"more than {MAX_LABELS} labels: only the first were compared")
        return warnings


def _describe(groups: Sequence[dict[str, int]]) -> str:
    examples = [
        ", ".join(f"{label!r} ({rows} rows)" for label, rows in labels.items())
        for labels in groups[:_EXAMPLES]
    ]
    more = f" (and {len(groups) - _EXAMPLES} more)" if len(groups) > _EXAMPLES else ""
    return "; ".join(examples) + more


def fold(label: str) -> str:
    """What a label has in common with those that a reader would take for it."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    seen = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return " ".join(seen.split())
