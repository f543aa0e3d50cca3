"""All figures of a metrics file as one table: a row per figure, a column per part."""

from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.metrics.known import split_part
from plumbline.report.figures import figure, label

_BOUNDS = ("_low", "_high")


@dataclass(frozen=True)
class FigureTable:
    """What stands in a metrics file; the ends of an interval stand with their figure."""

    parts: list[str]
    """Columns; "" for what belongs to no part, which comes last."""
    rows: dict[str, list[tuple[str, str] | None]]
    """Figure in words -> figure and interval of each part, as printed."""


def is_bound(name: str, metrics: Mapping[str, float]) -> bool:
    """Whether a figure is an end of the interval of another one."""
    return any(name.endswith(end) and name.removesuffix(end) in metrics for end in _BOUNDS)


def interval_of(name: str, metrics: Mapping[str, float]) -> tuple[float, float] | None:
    """The ends of a figure's interval, where the file has both."""
    low, high = (metrics.get(name + end) for end in _BOUNDS)
    return None if low is None or high is None else (low, high)


def figure_table(metrics: Mapping[str, float]) -> FigureTable:
    """Sort the figures of a file by part; parts and figures are in the order of the file."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    parts: list[str] = []
    for name, value in metrics.items():
        if is_bound(name, metrics):
            continue
        part, base = split_part(name)
        interval = interval_of(name, metrics)
        words = f"{figure(name, interval[0])} to {figure(name, interval[1])}" if interval else ""
        found.setdefault(base, {})[part] = (figure(name, value), words)
        if part not in parts:
            parts.append(part)
    parts.sort(key=lambda part: part == "")
    return FigureTable(
        parts, {label(base): [cells.get(part) for part in parts] for base, cells in found.items()}
    )
