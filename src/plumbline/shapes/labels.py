"""How the labels of train are distributed over the classes, by part, from what was counted."""

from plumbline.data.columns import SPLITS
from plumbline.data.near_names import near_pairs
from plumbline.shapes.described import LabelShape, Shapes
from plumbline.shapes.distributed import LabelSpread

RARE_ROWS = 10
"""Of a class with fewer a validation split has one row or none, and training little to go by."""
MAX_COMPARED = 10_000
"""Classes whose names are compared; with more they are hardly names."""


def spread_labels(shapes: Shapes) -> dict[str, LabelSpread]:
    """Part -> how its labels spread; nothing where there are none."""
    return {part: _spread(labels) for part, labels in shapes.get("labels", {}).items()}


def _spread(labels: LabelShape) -> LabelSpread:
    classes, counts = labels["classes"], labels["counts"]
    train = counts["train"]
    # Of equal counts the first in the order of the classes.
    most, least = max(classes, key=train.__getitem__), min(classes, key=train.__getitem__)
    return {
        "classes": len(classes),
        "rows": sum(train.values()),
        "most": (most, train[most]),
        "least": (least, train[least]),
        "imbalance": train[most] / train[least],
        "rare": sum(rows < RARE_ROWS for rows in train.values()),
        "absent": {
            split: absent
            for split in SPLITS
            if split in counts and (absent := sum(not rows for rows in counts[split].values()))
        },
        "near": near_pairs(classes) if len(classes) <= MAX_COMPARED else [],
    }
