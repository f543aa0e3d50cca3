"""What a sweep found, as a table: one row a point."""

import csv
import io
import statistics
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from plumbline.report.figures import number
from plumbline.sweep.config import Direction, SweepConfig
from plumbline.sweep.overrides import parse
from plumbline.sweep.study import Point
from plumbline.text import csv_cell


def best_of(points: Sequence[Point], direction: Direction) -> Point | None:
    """The complete point with the best objective; the earlier one of two equals."""
    complete = [point for point in points if point.value is not None]
    sign = 1.0 if direction == "minimize" else -1.0
    return min(complete, key=lambda p: sign * (p.value or 0.0), default=None)


def spread(point: Point) -> float | None:
    """Sample standard deviation over the seeds; None for fewer than two."""
    values = list(point.values.values())
    return statistics.stdev(values) if len(values) > 1 else None


def rows(
    config: SweepConfig, points: Sequence[Point], runs: Sequence[Sequence[str]]
) -> list[dict[str, object]]:
    """The table, in the order in which points were drawn.

    Args:
        config: of the sweep.
        points: its points.
        runs: for each point the names of its experiments.
    """
    best = best_of(points, config.direction)
    table = []
    for place, (point, names) in enumerate(zip(points, runs, strict=True), start=1):
        row: dict[str, object] = {"point": place, "state": point.state}
        row |= {override.key_or_group: _value(override) for override in parse(point.overrides)}
        row |= {"mean": point.value, "spread": spread(point)}
        row |= {f"seed={seed}": point.values.get(str(seed)) for seed in config.seeds}
        row["best"] = "*" if best and point.number == best.number else ""
        row |= {"reason": point.reason or "", "experiments": " ".join(names)}
        table.append(row)
    return table


def _value(override: Override) -> str:
    return str(override.get_value_element_as_str())


def as_csv(table: Sequence[dict[str, object]]) -> str:
    """The table for a program: floats exactly, nothing for what there is not."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _escaped(value) for name, value in row.items()} for row in table)
    return text.getvalue()


def _escaped(value: object) -> object:
    return csv_cell(value) if isinstance(value, str) else value


def as_text(table: Sequence[dict[str, object]]) -> str:
    """The table for a reader: columns aligned, figures short, empty columns left out."""
    names = [
        name
        for name in dict.fromkeys(name for row in table for name in row)
        if name != "experiments" and any(row.get(name) not in (None, "") for row in table)
    ]
    cells = [names, *([_cell(row.get(name)) for name in names] for row in table)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)
