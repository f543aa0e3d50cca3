"""Curves as inline SVG that follows the page: its font, its colours, light and dark."""

import io
import re
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from plumbline.report.history import Series

# matplotlib wants colours, the page has names for them: each ink stands for a name.
_INKS = {
    "#010101": "var(--muted)",
    "#010102": "var(--line)",
    "#010103": "var(--first)",
    "#010104": "var(--second)",
}
_MUTED, _LINE, _FIRST, _SECOND = _INKS

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
    role: Literal["first", "second"] = "first"
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
    # Not pyplot: it costs a third of a second more to import, and there is no window to open.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # What a user's own matplotlibrc says must not change the page.
    known = matplotlib.rcParamsDefault
    style: Any = {key: known[key] for key in known if not key.startswith("backend")}
    style |= {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                line.series.steps,
                line.series.values,
                color=_FIRST if line.role == "first" else _SECOND,
                linewidth=1.8,
                marker="o" if line.marked or len(line.series.steps) == 1 else None,
                markersize=4,
            )
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.margins(x=0.02, y=0.08)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Markup(_fit_into_page(buffer.getvalue(), name))  # noqa: S704 - numbers and our words


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
