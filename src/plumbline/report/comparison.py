"""Several versions side by side as one page: curves overlaid, figures, settings that differ.

It is no output of a stage: what else there is to compare with differs from clone to clone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.report.curves import Curve, overlaid
from plumbline.report.figures import full_label, label
from plumbline.report.first_figures import printed
from plumbline.report.history import Series
from plumbline.report.page import environment
from plumbline.report.plots import ROLES, Line

MOST = len(ROLES)
"""Versions that colours tell apart."""
SHOWN_CHARS = 200
"""Of a value of a setting."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """What stands on the page."""

    names: Sequence[str]
    """Of the versions."""
    settings: Sequence[tuple[str, Sequence[object]]]
    """Dotted key -> the value of each version; "nothing" where it has none."""
    figures: Sequence["Figure"]
    curves: Sequence[Mapping[str, Mapping[str, Series]]]
    """Of each version: entry -> name of the curve -> its points."""


@dataclass(frozen=True)
class Figure:
    """One figure of all versions."""

    entry: str
    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None]
    apart: bool | None


@dataclass(frozen=True)
class Mark:
    """A figure of one version, as drawn and printed."""

    role: str
    shown: str
    interval: str = ""
    at: float | None = None
    """Its place on the strip of its row, 0 to 1."""
    ends: Interval | None = None


def render_comparison(compared: Compared) -> str:
    """Write the page.

    Raises:
        ValueError: there are fewer than two versions, or more than `MOST`.
    """
    if not 2 <= len(compared.names) <= MOST:
        raise ValueError(f"{len(compared.names)} versions: 2 to {MOST} can be shown")
    entries: dict[str, list[tuple[str, list[Mark], bool | None]]] = {}
    for figure in compared.figures:
        row = (full_label(figure.name), marks(figure), figure.apart)
        entries.setdefault(figure.entry, []).append(row)
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            versions=list(zip(ROLES, compared.names, strict=False)),
            settings=[(key, [_value(one) for one in values]) for key, values in compared.settings],
            entries=entries,
            curves=_overlaid(compared),
        )
    )


def marks(figure: Figure) -> list[Mark]:
    """The figure of each version, all on one scale from the lowest end to the highest."""
    ends = [end for interval in figure.intervals if interval for end in interval]
    known = [*ends, *(value for value in figure.values if value is not None)]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def place(value: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    found = []
    for role, value, interval in zip(ROLES, figure.values, figure.intervals, strict=False):
        if value is None:
            found.append(Mark(role, "not there"))
            continue
        words = " to ".join(printed(figure.name, end) for end in interval) if interval else ""
        drawn = (place(interval[0]), place(interval[1])) if interval else None
        found.append(Mark(role, printed(figure.name, value), words, place(value), drawn))
    return found


def _value(value: object) -> str:
    text = "not there" if value == "nothing" else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."


def _overlaid(compared: Compared) -> list[tuple[str, list[Curve]]]:
    """Entry -> a plot of each of its curves with a line of each version that has it."""
    plots: list[tuple[str, list[Curve]]] = []
    for entry in dict.fromkeys(entry for version in compared.curves for entry in version):
        drawn: list[Curve] = []
        of_entry = [version.get(entry, {}) for version in compared.curves]
        for curve in dict.fromkeys(name for version in of_entry for name in version):
            lines = [
                Line(name, version[curve], role)
                for role, name, version in zip(ROLES, compared.names, of_entry, strict=False)
                if curve in version
            ]
            drawn.append(overlaid(label(curve), "", lines, f"plot-{len(plots)}-{len(drawn)}"))
        plots.append((entry, drawn))
    return plots
