"""Classes and numbers to predict, by part of the dataset."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from plumbline.data.columns import SPLITS
from plumbline.errors import DataError
from plumbline.shapes.described import Described, LabelShape, ValueShape
from plumbline.shapes.moments import Moments, rounded

MAX_CLASSES = 100_000
"""Names that differ in so many ways are no labels."""

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


def part_names(batch: pa.RecordBatch) -> Iterator[str]:
    """The part of each row; "" where the dataset has one unnamed part."""
    if "part" not in batch.schema.names:
        return iter([""] * batch.num_rows)
    return (name or "" for name in batch.column("part").to_pylist())


class PartRows:
    """Rows by part and split."""

    def __init__(self) -> None:
        """Begin with no row."""
        self._rows: dict[str, Counter[str]] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch."""
        for part, rows in Counter(part_names(batch)).items():
            self._rows.setdefault(part, Counter())[split] += rows

    def check(self) -> None:
        """Refuse a part that cannot be learned.

        Raises:
            DataError: a part has no row in train.
        """
        for part, rows in self._rows.items():
            if not rows["train"]:
                there = ", ".join(f"{split} {count}" for split, count in rows.items())
                raise DataError(
                    f"part {part!r} has no training row ({there}); mend its source, or leave the "
                    "part out"
                )


class Labels:
    """Rows by part, split and class."""

    def __init__(self, declared: Mapping[str, Sequence[str]]) -> None:
        """`declared` gives the classes of some parts, in their order."""
        self._declared = declared
        self._counts: dict[str, dict[str, Counter[str]]] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Count the labels of a batch.

        Raises:
            DataError: there are too many different ones.
        """
        names = batch.column("label").to_pylist()
        found = Counter(zip(part_names(batch), names, strict=True))
        for (part, name), rows in found.items():
            if name is None:
                continue
            counts = self._counts.setdefault(part, {}).setdefault(split, Counter())
            counts[name] += rows
            if len(counts) > MAX_CLASSES:
                raise DataError(
                    f"{_of(part)}more than {MAX_CLASSES} different labels: is column label right?"
                )

    def describe(self) -> Described:
        """Classes in order, rows by split and class, weights that balance the classes of train.

        Raises:
            DataError: the classes of a part are fewer than two, differ between splits, or are
                declared otherwise.
        """
        if unknown := sorted(set(self._declared) - set(self._counts)):
            raise DataError(
                f"detect_shapes.classes names part {unknown[0]!r}, of which no row has a label "
                f"(parts with labels: {', '.join(map(repr, self._counts)) or 'none'})"
            )
        return {"labels": {part: self._describe(part) for part in sorted(self._counts)}}

    def _describe(self, part: str) -> LabelShape:
        counts = self._counts[part]
        train = counts.get("train", Counter())
        declared = self._declared.get(part)
        if declared is not None:
            _compare(part, declared, counts)
        _check_splits(part, counts)
        if len(train) < 2:
            raise DataError(
                f"{_of(part)}one class, {next(iter(train))!r}, is all that train has; at least 2 "
                "are needed to tell apart"
            )
        classes = list(declared) if declared is not None else order_classes(list(train))
        return {
            "classes": classes,
            "counts": {
                split: {name: counts[split][name] for name in classes}
                for split in SPLITS
                if split in counts
            },
            "balanced_weights": [train.total() / (len(classes) * train[name]) for name in classes],
        }


def _compare(part: str, declared: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse classes that are declared in another way than the data has them."""
    for split in SPLITS:
        for name, rows in counts.get(split, {}).items():
            if name not in declared:
                raise DataError(
                    f"{_of(part)}detect_shapes.classes declares {len(declared)} classes without "
                    f"{name!r}, but {rows} rows of {split} have it; declare it, or list what may "
                    "stay in validate.labels"
                )
    if missing := [name for name in declared if name not in counts.get("train", {})]:
        raise DataError(
            f"{_of(part)}detect_shapes.classes declares {missing[0]!r}, but no training row has "
            "it; take it out, or give train such rows"
        )


def _check_splits(part: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse labels that are asked for in evaluation and never taught."""
    train = counts.get("train", {})
    for split in SPLITS:
        if unseen := [name for name in counts.get(split, {}) if name not in train]:
            name = order_classes(unseen)[0]
            more = f" (and {len(unseen) - 1} more labels)" if len(unseen) > 1 else ""
            raise DataError(
                f"{_of(part)}label set differs between splits: {counts[split][name]} rows of "
                f"{split} have label {name!r}{more}, which train never has; mend the splits, or "
                "list the labels to keep in validate.labels"
            )


def order_classes(names: Sequence[str]) -> list[str]:
    """Put names in numeric order where all are integers, else in that of their characters."""
    if all(_INTEGER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


class Values:
    """Numbers of the training split by part."""

    def __init__(self) -> None:
        """Begin with no number."""
        self._moments: dict[str, Moments] = {}
        self._bounds: dict[str, tuple[float, float]] = {}
        self._elsewhere: dict[str, str] = {}

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Add the numbers of a batch."""
        numbers: dict[str, list[float]] = {}
        for part, text in zip(part_names(batch), batch.column("value").to_pylist(), strict=True):
            if text is not None:
                numbers.setdefault(part, []).append(float(text))
        for part, found in numbers.items():
            if split != "train":
                self._elsewhere.setdefault(part, split)
                continue
            self._moments.setdefault(part, Moments(1)).add(np.array(found)[:, None])
            low, high = self._bounds.get(part, (found[0], found[0]))
            self._bounds[part] = min(low, *found), max(high, *found)

    def describe(self) -> Described:
        """Count, mean, standard deviation and bounds over the training split.

        Raises:
            DataError: a part has values in another split alone.
        """
        if untaught := sorted(set(self._elsewhere) - set(self._moments)):
            split = self._elsewhere[untaught[0]]
            raise DataError(
                f"{_of(untaught[0])}column value has numbers in {split} but none in train; give "
                "train such rows"
            )
        described: dict[str, ValueShape] = {}
        for part in sorted(self._moments):
            (mean,), (std,) = self._moments[part].mean(), self._moments[part].std()
            low, high = (rounded(bound) for bound in self._bounds[part])
            count = self._moments[part].count
            described[part] = {"count": count, "mean": mean, "std": std, "min": low, "max": high}
        return {"values": described}


def _of(part: str) -> str:
    return f"part {part!r}: " if part else ""
