"""Classes that a reader would take for one, by how they are written."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from plumbline.data.near_names import fold, near_pairs

MAX_LABELS = 10_000
"""Labels of all parts that are compared; with more, labels are hardly the names of classes."""
_EXAMPLES = 3


class NearLabels:
    """Counts the labels of clean rows by part, as long as there are not too many."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._rows: Counter[tuple[str, str]] = Counter()
        self._full = False

    def counted(self) -> list[list[Any]]:
        """What has been counted, for `of`: part, label and rows of each, and whether it is all."""
        return [[*key, rows] for key, rows in self._rows.items()] + [[]] * self._full

    @classmethod
    def of(cls, counted: Iterable[list[Any]]) -> "NearLabels":
        """The same counts again."""
        labels = cls()
        for entry in counted:
            if entry:
                labels.add(*entry)
            else:
                labels._full = True
        return labels

    def add(self, part: str, label: str, rows: int) -> None:
        """Count rows with a label; of more labels than are compared, the first are."""
        if (part, label) in self._rows or len(self._rows) < MAX_LABELS:
            self._rows[part, label] += rows
        else:
            self._full = True

    def warnings(self) -> list[str]:
        """Lines for each part that has such labels: how many groups, and examples with rows."""
        by_part: dict[str, dict[str, int]] = {}
        for (part, label), rows in sorted(self._rows.items()):
            by_part.setdefault(part, {})[label] = rows
        warnings = []
        for part, labels in by_part.items():
            of_part = f" of part {part}" if part else ""
            pairs = [{name: labels[name] for name in pair} for pair in near_pairs(labels)]
            for how, groups in (
                ("differ by case, blanks or Unicode form only", _written_alike(labels)),
                ("differ by accents, punctuation or one letter only", pairs),
            ):
                if groups:
                    warnings.append(
                        f"labels{of_part} that {how}: {_describe(groups)}; if they are one class, "
                        "write them alike"
                    )
        if self._full:
            warnings.append(f"more than {MAX_LABELS} labels: only the first were compared")
        return warnings


def _written_alike(labels: dict[str, int]) -> list[dict[str, int]]:
    folded: dict[str, dict[str, int]] = {}
    for label, rows in labels.items():
        folded.setdefault(fold(label), {})[label] = rows
    return [group for group in folded.values() if len(group) > 1]


def _describe(groups: Sequence[dict[str, int]]) -> str:
    examples = [
        ", ".join(f"{label!r} ({rows} rows)" for label, rows in labels.items())
        for labels in groups[:_EXAMPLES]
    ]
    more = f" (and {len(groups) - _EXAMPLES} more)" if len(groups) > _EXAMPLES else ""
    return "; ".join(examples) + more
