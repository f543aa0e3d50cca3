"""Classes that a reader would take for one, by how they are written."""

from collections import Counter
from collections.abc import Sequence

from plumbline.data.near_names import fold, near_pairs

MAX_LABELS = 10_000
"""Labels of all parts that are compared; with more, labels are hardly the names of classes."""
_EXAMPLES = 3


class NearLabels:
    """Counts the labels of clean rows by part, as long as there are not too many."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.rows: Counter[tuple[str, str]] = Counter()
        """By part and label."""
        self.full = False
        """Whether there were more."""

    def add(self, part: str, label: str, rows: int) -> None:
        """Count rows with a label; of more labels than are compared, the first are."""
        if (part, label) in self.rows or len(self.rows) < MAX_LABELS:
            self.rows[part, label] += rows
        else:
            self.full = True

    def warnings(self) -> list[str]:
        """Lines for each part that has such labels: how many groups, and examples with rows."""
        by_part: dict[str, dict[str, int]] = {}
        for (part, label), rows in sorted(self.rows.items()):
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
        if self.full:
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
