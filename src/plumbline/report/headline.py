"""The figures that come first, in the page and in the terminal.

`python -m plumbline.report.headline` prints those of the selection in params.yaml.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline import paths
from plumbline.config import compose_yaml
from plumbline.errors import PlumblineError
from plumbline.files import read_json
from plumbline.report.collect import Export, collect_export, recall_tables
from plumbline.report.figures import figure, label, number, share
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


def alignment_headlines(metrics: Mapping[str, float]) -> list[Headline]:
    """Recall at the smallest k, both ways, with all dimensions of the embeddings."""
    headlines = []
    for table in recall_tables(metrics):
        recall = table.rows[None][table.ks[0]]
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
    return headlines


def task_headlines(metrics: Mapping[str, float], export: Export | None) -> list[Headline]:
    """Exact match beside its baseline, captions, perplexity and export parity; what there is."""
    headlines = []
    if "exact_match" in metrics:
        blind = metrics.get("question_only_exact_match")
        headlines.append(
            Headline(
                name=label("exact_match"),
                shown=share(metrics["exact_match"]),
                note="" if blind is None else f"{share(blind)} from the question alone",
                value=metrics["exact_match"],
                baseline=blind,
            )
        )
    for name, whole, note in (
        ("caption_bleu", 100, "of 100"),
        ("caption_rouge_l", 1, "of 1"),
        ("answer_perplexity", None, "lower is better, 1 is perfect"),
    ):
        if name in metrics:
            value = metrics[name] / whole if whole else None
            headlines.append(Headline(label(name), figure(name, metrics[name]), note, value))
    headlines.append(_export_headline(export))
    return headlines


def _export_headline(export: Export | None) -> Headline:
    if export is None:
        return Headline("Export parity", "none", "not exported")
    if not export.parity:
        return Headline("Export parity", "none", "weights alone are exported")
    agreement = min(parity["token_agreement"] for parity in export.parity.values())
    logits = max(parity["max_logits_difference"] for parity in export.parity.values())
    note = f"of tokens agree in {' and '.join(export.parity)}; logits within {number(logits)}"
    if export.failed:
        note += f"; {' and '.join(export.failed)} failed"
    return Headline("Export parity", share(agreement), note, agreement)


def headlines(selection: Selection) -> dict[str, list[Headline]]:
    """The headline figures of every alignment and task, by `alignment <name>` or `task <name>`.

    Raises:
        CheckpointError: the metrics of a selected entry are missing.
    """
    groups = {
        f"alignment {name}": alignment_headlines(read_json(paths.alignment_metrics(name)))
        for name in selection.align
    }
    for name in selection.tasks:
        metrics = read_json(paths.task_metrics(name))
        groups[f"task {name}"] = task_headlines(metrics, collect_export(name))
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


def main() -> None:
    """Print the headline figures of the selection in ./params.yaml."""
    try:
        params = compose_yaml(Path.cwd(), "params", [])
        selection = Selection.from_params(params["datasets"], params["align"], params["tasks"])
        print(summary(headlines(selection)))
    except PlumblineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
