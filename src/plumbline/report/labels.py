"""How often each class occurs, by part and split, from shapes.json."""

from dataclasses import dataclass

from plumbline.data.columns import SPLITS
from plumbline.shapes.described import Shapes

SHOWN = 30
"""Classes listed of a part; of more the most frequent ones."""


@dataclass(frozen=True)
class LabelCounts:
    """The labels of one part."""

    part: str
    splits: list[str]
    rows: list[tuple[str, list[int]]]
    """Class and its rows by split."""
    classes: int
    """Of the part, listed or not."""

    @property
    def most(self) -> int:
        """Rows of the most frequent class."""
        return max((sum(counts) for _, counts in self.rows), default=0)


def label_counts(shapes: Shapes) -> list[LabelCounts]:
    """Count the labels of every part; classes in their order while all are listed."""
    parts = []
    for part, labels in shapes.get("labels", {}).items():
        splits = [split for split in SPLITS if split in labels["counts"]]
        rows = [
            (name, [labels["counts"][split].get(name, 0) for split in splits])
            for name in labels["classes"]
        ]
        if len(rows) > SHOWN:
            rows.sort(key=lambda row: -sum(row[1]))
        parts.append(LabelCounts(part, splits, rows[:SHOWN], len(labels["classes"])))
    return parts
