"""What a sweep found, as a picture: the objective point by point, and over each key."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plumbline.plain_plots import plain_style
from plumbline.sweep.config import SweepConfig
from plumbline.sweep.overrides import parse
from plumbline.sweep.study import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "svg.fonttype": "none",
    "svg.hashsalt": "sweep",
}
_POINT, _BEST, _OTHER = "#3b6ea5", "#c2571a", "#999999"


def draw(config: SweepConfig, points: Sequence[Point]) -> bytes:
    """The plot of a sweep as SVG: equal points give equal bytes.

    The first panel has the objective by point, with the spread over seeds, and the best so far;
    where a point failed or was stopped, a mark stands below. Then a panel for each key.
    """
    # Not pyplot: it costs a third of a second more to import, and there is no window to open.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = 1 + len(config.space)
    lines = math.ceil(panels / _COLUMNS)
    with plain_style(_STYLE):
        figure = Figure(figsize=(4.2 * min(panels, _COLUMNS), 3.1 * lines), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(lines, min(panels, _COLUMNS), 1)
        _draw_course(axes, config, points)
        for place, key in enumerate(config.space):
            panel = figure.add_subplot(lines, min(panels, _COLUMNS), place + 2, sharey=axes)
            _draw_key(panel, config, key, points)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    return buffer.getvalue()


def _draw_course(axes: "Axes", config: SweepConfig, points: Sequence[Point]) -> None:
    from matplotlib.ticker import MaxNLocator

    best, course = None, []
    better = min if config.direction == "minimize" else max
    for place, point in enumerate(points, start=1):
        if point.value is not None:
            best = point.value if best is None else better(best, point.value)
            low, high = min(point.values.values()), max(point.values.values())
            axes.vlines(place, low, high, color=_POINT, linewidth=1.2)
            axes.plot(place, point.value, "o", color=_POINT, markersize=4)
        elif point.state != "running":
            mark = "x" if point.state == "failed" else "|"
            where = axes.get_xaxis_transform()
            axes.plot(place, 0.02, mark, color=_OTHER, transform=where, markersize=6)
        course.append(math.nan if best is None else best)
    axes.step(range(1, len(course) + 1), course, where="post", color=_BEST, linewidth=1.6)
    axes.set_xlabel("point (x failed, | stopped)")
    axes.set_ylabel(config.metric.partition(":")[2])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_key(axes: "Axes", config: SweepConfig, key: str, points: Sequence[Point]) -> None:
    place = list(config.space).index(key)
    drawn = [(parse([p.overrides[place]])[0], p.value) for p in points if p.value is not None]
    heights = [value for _, value in drawn]
    if config.space[key].choice is None:
        # A range is drawn as numbers alone.
        values = [float(str(override.value())) for override, _ in drawn]
        axes.plot(values, heights, "o", color=_POINT, markersize=4, alpha=0.8)
        if config.space[key].log:
            axes.set_xscale("log")
    else:
        texts = [str(override.get_value_element_as_str()) for override, _ in drawn]
        names = list(dict.fromkeys(sorted(texts)))
        axes.plot([names.index(t) for t in texts], heights, "o", color=_POINT, markersize=4)
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.2)
    axes.set_xlabel(key if len(key) < 40 else "…" + key[-38:])
