"""What of the distributions somebody should know before a training, one line each."""

from collections.abc import Iterator

from plumbline.shapes.distributed import ColumnSpread, Distributions, LabelSpread
from plumbline.shapes.labels import RARE_ROWS
from plumbline.shapes.proposals import IMBALANCED
from plumbline.shapes.spread import ValueSpread, share

LONG_TAIL = 10
"""Times its 99th percentile that the longest is: a batch with it takes so much more."""
OBLONG = 3.0
"""Times its shorter side that an image is long, of which a square shows little."""
REPEATED = 0.5
"""Share of rows with one and the same text."""
_FEWEST_ROWS = 20
"""Of which shares say something."""
_SOME = 0.01
"""Share that is worth a line."""
_TEXTS = 60
"""Characters of a text that is named."""


def describe_distributions(found: Distributions) -> Iterator[str]:
    """Lines on the training split: labels, values, then the columns of each view."""
    for part, labels in found["labels"].items():
        yield from _of_labels(labels, f" of part {part!r}" if part else "")
    for part, by_split in found["values"].items():
        if "train" in by_split:
            yield from _of_values(by_split["train"], f" of part {part!r}" if part else "")
    if still := found.get("constant_channels"):
        named = ", ".join(map(str, still[:5]))
        named += f" and {len(still) - 5} more" if len(still) > 5 else ""
        yield f"channels of features that never change in training, counted from 0: {named}"
    # Views may share a column, of which a line is enough.
    lines = (
        line
        for by_split in found["views"].values()
        if "train" in by_split
        for name, column in by_split["train"]["columns"].items()
        for line in _of_column(name, column)
    )
    yield from dict.fromkeys(lines)


def _of_labels(labels: LabelSpread, of_part: str) -> Iterator[str]:
    (most, rows), (least, fewest) = labels["most"], labels["least"]
    if labels["imbalance"] >= IMBALANCED:
        yield (
            f"labels{of_part} are imbalanced: {most!r} has {rows:,} training rows, {least!r} "
            f"{fewest:,}; weigh the classes, and look at macro F1 beside accuracy"
        )
    if labels["rare"]:
        yield (
            f"{labels['rare']:,} of {labels['classes']:,} classes{of_part} have fewer than "
            f"{RARE_ROWS} training rows"
        )
    for split, absent in labels["absent"].items():
        if split != "train":
            yield f"{absent:,} of {labels['classes']:,} classes{of_part} have no row in {split}"


def _of_values(values: ValueSpread, of_part: str) -> Iterator[str]:
    count = values["count"]
    if values["min"] == values["max"]:
        yield f"values{of_part} are {values['min']:g} in all {count:,} training rows"
        return
    if count >= _FEWEST_ROWS and values["zeros"] / count >= REPEATED:
        yield f"values{of_part} are 0 in {share(values['zeros'], count)} of the training rows"
    if values["outliers"] / count >= _SOME:
        yield (
            f"values{of_part}: {values['outliers']:,} of {count:,} lie far out, beyond three times "
            f"the distance of the quartiles {values['p25']:g} and {values['p75']:g}; a robust loss "
            "or a transform of the target bounds what they weigh"
        )


def _of_column(name: str, column: ColumnSpread) -> Iterator[str]:
    if aspect := column.get("aspect"):
        sides = ((1 / aspect["p5"], "tall as wide"), (aspect["p95"], "wide as tall"))
        for ratio, how in sides:
            if ratio >= OBLONG:
                yield (
                    f"{name}: one in twenty is {ratio:.2g} times as {how} or more, which a square "
                    "stretches or cuts (tokenize.image_size, image_resize)"
                )
    for spread, unit in (
        (column.get("seconds"), "s"),
        (column.get("steps"), "steps"),
        (column.get("chars"), "characters"),
    ):
        if spread and spread["max"] > LONG_TAIL * max(spread["p99"], 1):
            yield (
                f"{name}: the longest has {spread['max']:,} {unit}, 99 of 100 at most "
                f"{spread['p99']:,}: a batch with it takes "
                f"{spread['max'] / (spread['p99'] or 1):.0f} times the memory"
            )
    if constant := column.get("constant"):
        yield f"{name}: {constant:,} of {column['distinct']:,} arrays never change"
    if often := column.get("most_frequent"):
        rows = column["chars"]["count"]
        if rows >= _FEWEST_ROWS and often["rows"] >= REPEATED * rows:
            yield (
                f"{name}: {share(often['rows'], rows)} of the training rows have the same text, "
                f"{often['text'][:_TEXTS]!r}"
            )
