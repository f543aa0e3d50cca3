"""The curves of a training: `train.csv` and `val.csv` as series, and as plots of DVC."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.files import atomic_write

CURVES = {
    "training_loss": ("train.csv", "loss"),
    "validation_loss": ("val.csv", "loss"),
    "learning_rate": ("train.csv", "lr"),
}
"""Curve -> table and column of the history.

dvc.yaml names them as plots of the evaluations: in the folder of a model, which is one output of
its training, DVC takes no plot whose path has the name of the task.
"""

POINTS = 300
"""The most points a curve is drawn with; a longer one is averaged."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """One column over the optimiser steps; values that are not finite are left out."""

    steps: Floats
    values: Floats

    def thinned(self) -> tuple["Series", int]:
        """Average neighbours until at most `POINTS` are left, and say how many make a point."""
        width = -(-len(self.steps) // POINTS)
        if width <= 1:
            return self, 1
        starts = np.arange(0, len(self.steps), width)
        counts = np.diff(np.append(starts, len(self.steps)))
        steps = np.add.reduceat(self.steps, starts) / counts
        return Series(steps, np.add.reduceat(self.values, starts) / counts), width


def read_series(file: Path) -> dict[str, Series]:
    """Read the numeric columns of a history table; nothing where there is no such file.

    A cell that is empty or not finite, as of a skipped step, is left out of its series.
    """
    if not file.is_file():
        return {}
    from pyarrow.csv import read_csv

    table: pa.Table = read_csv(file)
    steps = _floats(table["global_step"])
    series = {}
    for name in table.column_names:
        if name == "global_step" or not _is_number(table[name].type):
            continue
        values = _floats(table[name])
        good = np.isfinite(values)
        if good.any():
            series[name] = Series(steps[good], values[good])
    return series


def parse_curve(text: str) -> Series | None:
    """A curve as `write_curves` writes it; None without a point that is finite.

    A cell that is no number is left out with its step.
    """
    points = []
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        try:
            step, value = (float(cell) for cell in row)
        except ValueError:  # empty, as of a skipped step
            continue
        if np.isfinite(step) and np.isfinite(value):
            points.append((step, value))
    if not points:
        return None
    steps, values = np.array(points, np.float64).T
    return Series(steps, values)


def write_curves(model: Path, out: Path) -> None:
    """Write each curve of a model's history as a table; one without values has its header."""
    for name, (table, column) in CURVES.items():
        rows: list[list[str]] = []
        if (model / table).is_file():
            with (model / table).open(encoding="utf-8", newline="") as file:
                rows = [[row["global_step"], row[column]] for row in csv.DictReader(file)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["global_step", column], *rows])
        atomic_write(out / f"{name}.csv", text.getvalue())


def _floats(column: pa.ChunkedArray) -> Floats:
    """A column with NaN where it is empty."""
    # Not to_numpy: it imports pandas, which takes longer than all the curves together.
    return np.array(column.to_pylist(), np.float64)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
