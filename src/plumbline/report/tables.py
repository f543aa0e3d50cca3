"""The tables of an evaluation as blocks. One that nothing here knows is shown as it is."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path

from plumbline.errors import CheckpointError
from plumbline.registry import Registry
from plumbline.report.blocks import Block, Column, Grid, Scene
from plumbline.report.cells import Value, as_number
from plumbline.report.confusion import NARROW_CLASSES, confusion_block
from plumbline.report.figures import figure, label, number
from plumbline.text import from_csv_cell

Row = Mapping[str, Value]


@dataclass(frozen=True)
class Table:
    """What a CSV that an evaluation wrote says of one part, which its column `part` names."""

    name: str
    part: str
    file: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class View:
    """How a table is shown."""

    title: str
    words: Mapping[str, str] = field(default_factory=dict)
    """Column -> its header."""
    bar: str = ""
    """Column that a bar is drawn for; its values are from 0 to 1."""
    limit: int = 20
    which: str = "first"
    """What those within the limit are, in words."""
    lowest: str = ""
    """Beyond the limit, the rows that are lowest in this column are shown."""
    fold: int = 1000
    """More rows than these are folded."""


def grid_block(view: View, table: Table, scene: Scene) -> list[Block]:
    """Show the rows of a table, as many as the view allows."""
    rows, columns = list(table.rows), list(table.rows[0]) if table.rows else []
    note = ""
    if len(rows) > view.limit:
        note = f"The {view.limit} {view.which} of {number(len(rows))}; all stand in {table.file}."
        if view.lowest:
            rows.sort(key=lambda row: _or(inf, row[view.lowest]))
    rows = rows[: view.limit]
    columns.sort(key=lambda name: name == view.bar)  # the bar stands before its figure
    grid = Grid(
        columns=[
            Column(view.words.get(name, label(name)), _is_numeric(rows, name)) for name in columns
        ],
        rows=[[_print(name, row[name]) for name in columns] for row in rows],
        bars=[_or(0.0, row[view.bar]) for row in rows] if view.bar else None,
        folded=len(rows) > view.fold,
    )
    return [Block("grid", view.title or label(table.name), grid, table.part, note, narrow=True)]


def _or(missing: float, value: Value) -> float:
    return missing if value is None else as_number(value)


def _confusion(table: Table, scene: Scene) -> list[Block]:
    return [confusion_block(table.rows, table.part)]


TABLES: Registry[Callable[[Table, Scene], list[Block]]] = Registry("table of the report")
"""Name of a table -> what makes blocks of it; a plugin may add a line."""

TABLES.register("confusion", _confusion)
TABLES.register(
    "per_class",
    partial(
        grid_block,
        View(
            "Figures by class",
            {"support": "Samples", "f1": "F1"},
            bar="f1",
            limit=30,
            which="classes with the lowest F1",
            lowest="f1",
            fold=NARROW_CLASSES,
        ),
    ),
)
TABLES.register(
    "by_prompt",
    partial(
        grid_block,
        View(
            "Exact match by kind of question",
            {"question": "Begins with", "count": "Questions"},
            bar="exact_match",
            which="most frequent",
        ),
    ),
)


def table_blocks(names: Sequence[str], folder: Path, scene: Scene) -> list[Block]:
    """Read tables and show them.

    Args:
        names: files in `folder`, checked against their digests.
        folder: of the evaluation.
        scene: of the task.

    Raises:
        CheckpointError: a table lacks what its kind has.
    """
    blocks: list[Block] = []
    for file in names:
        name = file.removesuffix(".csv")
        present = TABLES[name] if name in TABLES else partial(grid_block, View(""))
        parts: dict[str, list[Row]] = {}
        for row in read_table(folder / file):
            parts.setdefault(str(row.pop("part", "")), []).append(row)
        for part, rows in (parts or {"": []}).items():
            table = Table(name, part, f"{scene.folder}/{file}", rows)
            try:
                blocks += present(table, scene)
            except (KeyError, ValueError, TypeError) as error:
                raise CheckpointError(
                    f"{folder / file}: not readable as {name} ({error!r}); run dvc repro"
                ) from None
    return blocks


def read_table(file: Path) -> list[dict[str, Value]]:
    """The rows of a CSV; a column of numbers and empty cells holds numbers and None."""
    with file.open(newline="", encoding="utf-8") as handle:
        rows: list[dict[str, Value]] = [
            {from_csv_cell(name): from_csv_cell(cell) for name, cell in row.items()}
            for row in csv.DictReader(handle)
        ]
    for name in rows[0] if rows else ():
        numbers = [_number(row[name]) for row in rows]
        words = [row[name] for row, value in zip(rows, numbers, strict=True) if value is None]
        if name not in _NAMES and not any(words) and len(words) < len(rows):
            for row, value in zip(rows, numbers, strict=True):
                row[name] = value
    return rows


_NAMES = ("part", "class", "actual", "predicted", "question")
"""Columns that hold names, even where all look like numbers: digits are classes too."""


def _number(cell: Value) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _is_numeric(rows: Sequence[Row], name: str) -> bool:
    return bool(rows) and all(isinstance(row[name], float | None) for row in rows)


def _print(name: str, value: Value) -> str:
    if value is None:
        return "-"
    return figure(name, value) if isinstance(value, float) else str(value)
