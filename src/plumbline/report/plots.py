"""Curves and points as inline SVG that follows the page: its font, its colours, light and dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from markupsafe import Markup

from plumbline.plain_plots import plain_style
from plumbline.report.history import Floats, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

# matplotlib wants colours, the page has names for them: each ink stands for a name.
_INKS = {
    "#010101": "var(--muted)",
    "#010102": "var(--line)",
    "#010103": "var(--first)",
    "#010104": "var(--second)",
    "#010105": "var(--third)",
    "#010106": "var(--fourth)",
    "#010107": "var(--fifth)",
}
_MUTED, _LINE, _FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH = _INKS

Role = Literal["first", "second", "third", "fourth", "fifth"]
"""Of a line: the name of its colour."""
ROLES: dict[Role, str] = {
    "first": _FIRST,
    "second": _SECOND,
    "third": _THIRD,
    "fourth": _FOURTH,
    "fifth": _FIFTH,
}

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be selected
    "font.size": 10.5,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.limits": (-3, 6),
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Line:
    """One curve of a plot."""

    name: str
    series: Series
    role: Role = "first"
    marked: bool = False
    """Every point gets a dot: for the few points of a validation."""


def line_plot(lines: list[Line], *, name: str, y_label: str) -> Markup:
    """Draw curves over the optimiser steps.

    Args:
        lines: at least one, each with at least one point.
        name: unique on the page, letters, digits and dashes: ids in the SVG begin with it.
        y_label: what the curves measure, with its unit.

    Returns:
        One `<svg>` without ids that another plot has, dates, versions or colours of its own.
    """
    with _drawing(name) as axes:
        for line in lines:
            axes.plot(
                line.series.steps,
                line.series.values,
                color=ROLES[line.role],
                linewidth=1.8,
                marker="o" if line.marked or len(line.series.steps) == 1 else None,
                markersize=4,
            )
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(_ticks(integer=True))
        svg = _write(axes)
    return Markup(_fit_into_page(svg, name))  # noqa: S704 - numbers and our words


def scatter_plot(true: Floats, said: Floats, *, name: str) -> Markup:
    """Draw predicted over true numbers, and the line on which right predictions lie.

    Args:
        true: [points], at least one.
        said: [points].
        name: as in `line_plot`.

    Returns:
        One `<svg>`, as `line_plot` gives it.
    """
    both = np.concatenate([true, said])
    ends = [both.min(), both.max()]
    with _drawing(name) as axes:
        axes.plot(ends, ends, color=_MUTED, linewidth=1.2, dashes=(4, 3))
        axes.plot(
            true, said, color=_FIRST, linewidth=0, marker="o", markersize=3.4, alpha=0.55, mew=0
        )
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.grid(visible=True, axis="x")
        axes.xaxis.set_major_locator(_ticks())
        svg = _write(axes)
    return Markup(_fit_into_page(svg, name))  # noqa: S704 - numbers and our words


def reliability_plot(accuracy: Floats, weights: Floats, *, name: str) -> Markup:
    """Draw the accuracy of bins of confidence as bars, and how many predictions each has.

    Args:
        accuracy: [bins] from 0 to 1, NaN of a bin without predictions.
        weights: [bins], shares of the predictions.
        name: as in `line_plot`.

    Returns:
        One `<svg>`, as `line_plot` gives it.
    """
    width = 1 / len(accuracy)
    middles = (np.arange(len(accuracy)) + 0.5) * width
    filled = np.isfinite(accuracy)
    with _drawing(name) as axes:
        axes.bar(middles[filled], accuracy[filled], width * 0.86, color=_FIRST, alpha=0.8)
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1.2, dashes=(4, 3))
        axes.plot(middles, weights, color=_SECOND, linewidth=1.6, marker="o", markersize=3)
        axes.set_axisbelow(True)  # the grid lies behind the bars
        axes.set_xlabel("confidence")
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(_ticks())
        svg = _write(axes)
    return Markup(_fit_into_page(svg, name))  # noqa: S704 - numbers and our words


@contextmanager
def _drawing(name: str) -> Iterator["Axes"]:
    """Axes of a figure in the style of the page; what is drawn belongs into the block."""
    # Not pyplot: it costs a third of a second more to import, and there is no window to open.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with plain_style({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot()


def _ticks(*, integer: bool = False) -> "MaxNLocator":
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=integer, steps=[1, 2, 2.5, 5, 10])


def _write(axes: "Axes") -> str:
    axes.yaxis.set_major_locator(_ticks())
    axes.margins(x=0.02, y=0.08)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure = axes.get_figure(root=True)
    assert figure is not None, "it was made as a part of one"
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()


def _fit_into_page(svg: str, name: str) -> str:
    """Cut what only a file needs, and make ids and colours those of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view, "matplotlib gives every figure a viewBox"
    svg = f'<svg {view[0]} aria-hidden="true" focusable="false">' + svg[svg.index(">") + 1 :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r"font-family: [^;\"]+; ", "", svg)
    svg = re.sub(r'xlink:href="#|href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for ink, word in _INKS.items():
        svg = svg.replace(ink, word)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
