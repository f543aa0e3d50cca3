"""Which classes are taken for which: a matrix for a few classes, the worst pairs for many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from plumbline.report.blocks import Block, Column, Grid
from plumbline.report.cells import Value, as_number
from plumbline.report.figures import number, percent

MAX_CLASSES = 30
"""Of a matrix that is drawn."""
NARROW_CLASSES = 12
"""Of a matrix that has room beside something else."""
PAIRS_SHOWN = 20


@dataclass(frozen=True)
class Cell:
    """How many samples of one class were taken for another."""

    count: int
    depth: float
    """Of its colour, 0 to 1."""


@dataclass(frozen=True)
class Matrix:
    """Rows are what is, columns what was said."""

    classes: list[str]
    rows: list[list[Cell]]
    totals: list[int]
    """Samples of each class."""


def confusion_block(rows: Sequence[Mapping[str, Value]], part: str) -> Block:
    """Draw a confusion table.

    Args:
        rows: `actual`, `predicted` and `count`; what is not listed is 0.
        part: the part that it belongs to.
    """
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = (str(row["actual"]), str(row["predicted"]))
        counts[pair] = counts.get(pair, 0) + int(as_number(row["count"]))
    # In the order of the file: that of the model's classes.
    classes = list(dict.fromkeys([a for a, _ in counts] + [p for _, p in counts]))
    totals = dict.fromkeys(classes, 0)
    for (actual, _), count in counts.items():
        totals[actual] += count
    if len(classes) > MAX_CLASSES:
        return _pairs(counts, totals, part)
    cells = [
        [_cell(counts.get((actual, said), 0), totals[actual], actual == said) for said in classes]
        for actual in classes
    ]
    return Block(
        "confusion",
        "Confusion matrix",
        Matrix(classes, cells, list(totals.values())),
        part,
        "A row is a class of the data, a column what the model says. A deeper colour is a larger "
        "share of the row: right answers on the diagonal, mistakes beside it.",
        narrow=len(classes) <= NARROW_CLASSES,
    )


def _cell(count: int, total: int, right: bool) -> Cell:
    part = count / total if total else 0.0
    # Mistakes are a small share of a good model's row: the root keeps them visible.
    return Cell(count, part if right else sqrt(part))


def _pairs(counts: Mapping[tuple[str, str], int], totals: Mapping[str, int], part: str) -> Block:
    wrong = [(pair, count) for pair, count in counts.items() if count and pair[0] != pair[1]]
    wrong.sort(key=lambda item: (-item[1], item[0]))
    grid = Grid(
        columns=[
            Column("Class"),
            Column("Taken for"),
            Column("Share", True),
            Column("Times", True),
        ],
        rows=[
            [actual, said, percent(count, totals[actual]), number(count)]
            for (actual, said), count in wrong[:PAIRS_SHOWN]
        ],
        bars=[count / totals[actual] for (actual, _), count in wrong[:PAIRS_SHOWN]],
    )
    many = len(wrong) > PAIRS_SHOWN
    which = (
        f"the {PAIRS_SHOWN} most frequent of {number(len(wrong))} pairs" if many else "all pairs"
    )
    note = f"{number(len(totals))} classes; {which}. The bar is the share of the class's samples."
    return Block("grid", "Classes taken for others", grid, part, note, narrow=True)
