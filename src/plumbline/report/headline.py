"""The figures that come first, in the page and in the terminal.

`plumbline figures` prints those of the selection in params.yaml.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plumbline import paths
from plumbline.report.collect import (
    Export,
    collect_details,
    collect_export,
    recall_tables,
)
from plumbline.report.figure_table import interval_of
from plumbline.report.figures import figure, full_label, number, share
from plumbline.report.first_figures import Rule, by_part, first_of_unknown, rules_with
from plumbline.report.selection import Selection


@dataclass(frozen=True)
class Headline:
    """One figure of the first view."""

    name: str
    shown: str
    note: str = ""
    value: float | None = None
    """Its place between 0 and 1, where it has one."""
    interval: tuple[float, float] | None = None
    baseline: float | None = None


def metric_headlines(
    metrics: Mapping[str, float], details: Mapping[str, object] | None = None
) -> list[Headline]:
    """What the rules choose out of a metrics file, part by part; without any, its first figures."""
    chosen = [
        _headline(rule, names, metrics, details or {})
        for names in by_part(metrics).values()
        for rule in rules_with(_asked(details))
        if rule.metric in names and rule.unless not in names
    ]
    if chosen:
        return chosen
    names = first_of_unknown(metrics)
    return [_headline(Rule(name), {name: name}, metrics, details or {}) for name in names]


def _asked(details: Mapping[str, object] | None) -> list[str]:
    asked = (details or {}).get("asked", [])
    return [str(name) for name in asked] if isinstance(asked, list) else []


def _headline(
    rule: Rule,
    names: Mapping[str, str],
    metrics: Mapping[str, float],
    details: Mapping[str, object],
) -> Headline:
    name = names[rule.metric]
    interval = interval_of(name, metrics)
    baseline = metrics[names[rule.baseline]] if rule.baseline in names else None
    notes = [
        rule.note,
        f"95 % interval {figure(name, interval[0])} to {figure(name, interval[1])}"
        if interval
        else "",
        "" if baseline is None else rule.baseline_note.format(figure(rule.baseline, baseline)),
        str(details.get(rule.detail) or ""),
    ]
    whole = rule.whole
    return Headline(
        name=full_label(name),
        shown=figure(name, metrics[name]),
        note="; ".join(note for note in notes if note),
        value=metrics[name] / whole if whole else None,
        interval=interval if whole else None,
        baseline=baseline if whole else None,
    )


def alignment_headlines(
    metrics: Mapping[str, float], details: Mapping[str, object] | None = None
) -> list[Headline]:
    """Recall at the smallest k, both ways, with all dimensions; and what else the rules know."""
    headlines = []
    for table in recall_tables(metrics):
        width = None if None in table.rows else max(width for width in table.rows if width)
        recall = table.rows[width][table.ks[0]]
        interval = None
        if recall.low is not None and recall.high is not None:
            interval = (recall.low, recall.high)
        headlines.append(
            Headline(
                name=f"Recall@{table.ks[0]}, {table.direction}",
                shown=share(recall.value),
                note=f"95 % interval {share(interval[0])} to {share(interval[1])}"
                if interval
                else "",
                value=recall.value,
                interval=interval,
            )
        )
    known = {rule.metric for rule in rules_with(_asked(details))}
    return headlines + metric_headlines(
        {name: value for name, value in metrics.items() if name in known}, details
    )


def task_headlines(
    metrics: Mapping[str, float],
    export: Export | None,
    details: Mapping[str, object] | None = None,
) -> list[Headline]:
    """The first figures of a task, and how well its export agrees."""
    return [*metric_headlines(metrics, details), _export_headline(export)]


def _export_headline(export: Export | None) -> Headline:
    if export is None:
        return Headline("Export parity", "none", "not exported")
    failed = f"{' and '.join(export.failed)} failed" if export.failed else ""
    if not any(export.parity.values()):
        return Headline("Export parity", "none", failed or "weights alone are exported")
    formats = " and ".join(export.parity)
    agreements = _worst(export, "_agreement", min)
    differences = _worst(export, "_difference", max)
    notes = [f"{_what(name)} within {number(value)}" for name, value in differences.items()][:1]
    shown, value = "", None
    if agreements:
        name, value = next(iter(agreements.items()))
        shown = share(value)
        decision = name.removesuffix("_agreement")
        plural = "classes" if decision == "class" else f"{decision}s"
        notes.insert(0, f"of {plural} agree in {formats}")
    elif differences:
        shown = number(next(iter(differences.values())))
        notes = [f"largest difference of {_what(next(iter(differences)))} in {formats}"]
    else:
        shown, notes = "measured", [f"in {formats}"]
    note = "; ".join(note for note in [*notes, failed] if note)
    return Headline("Export parity", shown, note, value)


def _what(name: str) -> str:
    """What differs: `max_logits_difference` is of logits."""
    return name.removeprefix("max_").removesuffix("_difference").replace("_", " ")


def _worst(export: Export, ending: str, choose: Callable[[list[float]], float]) -> dict[str, float]:
    """The figures whose names end so, each of the format where it is worst, logits first."""
    names = dict.fromkeys(name for parity in export.parity.values() for name in parity)
    found = {
        name: choose([parity[name] for parity in export.parity.values() if name in parity])
        for name in names
        if name.endswith(ending)
    }
    return dict(sorted(found.items(), key=lambda item: "logits" not in item[0]))


def headlines(selection: Selection) -> dict[str, list[Headline]]:
    """The headline figures of every alignment and task, by `alignment <name>` or `task <name>`.

    Raises:
        CheckpointError: the metrics of a selected entry are missing.
    """
    groups = {}
    for name in selection.align:
        details = collect_details(paths.alignment_evaluation(name))
        groups[f"alignment {name}"] = alignment_headlines(details["figures"], details)
    for name in selection.tasks:
        details = collect_details(paths.task_evaluation(name))
        groups[f"task {name}"] = task_headlines(details["figures"], collect_export(name), details)
    return groups


def summary(groups: Mapping[str, list[Headline]]) -> str:
    """The headline figures as an aligned table in plain text, and where the page is."""
    rows = [
        (group, headline.name, headline.shown, headline.note)
        for group, members in groups.items()
        for headline in members
    ]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(3)]
    lines = [
        f"{group:<{widths[0]}}  {name:<{widths[1]}}  {shown:>{widths[2]}}  {note}".rstrip()
        for group, name, shown, note in rows
    ]
    return "\n".join([*(lines or ["nothing is selected"]), f"report: {paths.REPORT}/index.html"])
