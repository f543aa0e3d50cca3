"""The curves of a training, each with the words that say what it shows."""

from dataclasses import dataclass

from markupsafe import Markup

from plumbline.report.collect import Training
from plumbline.report.figures import full_label, number
from plumbline.report.history import Series
from plumbline.report.plots import Line, line_plot


@dataclass(frozen=True)
class Curve:
    """One plot with its caption."""

    title: str
    svg: Markup
    legend: list[tuple[str, str]]
    """Role of a line (`first`, `second`, ...) and what it is; empty for a single one."""
    caption: str
    """What the plot shows in figures, also for who cannot see it."""


def training_curves(training: Training, name: str) -> list[Curve]:
    """Loss, learning rate, gradient norm and further validation metrics, where there are any.

    Args:
        training: the history of a model.
        name: unique on the page, letters, digits and dashes.
    """
    loss = [
        _line(training.steps.get("loss"), "training", "first"),
        _line(training.validations.get("loss"), "validation", "second"),
    ]
    plans = [("Loss", "", loss)]
    for column, title, unit in (
        ("lr", "Learning rate", ""),
        ("grad_norm", "Gradient norm", "before clipping"),
    ):
        plans.append((title, unit, [_line(training.steps.get(column), title, "first")]))
    for column, series in training.validations.items():
        if column not in ("epoch", "loss"):
            plans.append(
                (full_label(column), "validation", [_line(series, "validation", "second")])
            )
    curves: list[Curve] = []
    for title, unit, lines in plans:
        if drawn := [line for line in lines if line is not None]:
            curves.append(overlaid(title, unit, drawn, f"{name}-{len(curves)}"))
    return curves


def _line(series: Series | None, name: str, role: str) -> Line | None:
    if series is None:
        return None
    second = role == "second"
    return Line(name, series, "second" if second else "first", marked=second)


def overlaid(title: str, unit: str, lines: list[Line], name: str) -> Curve:
    """Some lines in one plot, each in words as well.

    Args:
        title: of the plot.
        unit: of its values.
        lines: at least one.
        name: unique on the page, letters, digits and dashes.
    """
    thinned, texts = [], []
    for line in lines:
        series, width = line.series.thinned()
        thinned.append(Line(line.name, series, line.role, line.marked and width == 1))
        text = _describe(line.series, lowest=title.endswith(("Loss", "loss")))
        if width > 1:
            text += f"; each point is the mean of {width} steps"
        # The names of versions stay as they are.
        said = f"{line.name}: {text}." if len(lines) > 1 else f"{text[0].upper()}{text[1:]}."
        texts.append(said)
    return Curve(
        title=title,
        svg=line_plot(thinned, name=name, y_label=unit),
        legend=[(line.role, line.name) for line in lines] if len(lines) > 1 else [],
        caption=" ".join(texts),
    )


def _describe(series: Series, *, lowest: bool) -> str:
    steps, values = series.steps, series.values
    text = f"from {number(values[0])} at step {number(steps[0])}"
    if len(steps) > 1:
        text += f" to {number(values[-1])} at step {number(steps[-1])}"
    at = int(values.argmin())
    if lowest and 0 < at < len(steps) - 1:
        text += f", lowest {number(values[at])} at step {number(steps[at])}"
    return text
