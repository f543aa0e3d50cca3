"""A model card of each task: what it is, what it was made from, how good it is, what nobody said.

The parts are those of the usual template (Mitchell et al. 2019, arXiv:1810.03993). What no stage
can know stands in the settings (`report.cards`); where it is not said, the card says so.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline import paths
from plumbline.files import DIGESTS, read_digests, sha256_file
from plumbline.report.collect import Dataset, TaskResult
from plumbline.report.figure_table import figure_table
from plumbline.report.figures import full_label, label, number, percent, size
from plumbline.report.selection import Task
from plumbline.report.settings import CardSettings
from plumbline.text import one_line

_MARKUP = re.compile(r"([\\`*_{}\[\]|#])")


@dataclass(frozen=True)
class CardPart:
    """One part of a card."""

    title: str
    texts: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def model_card(
    name: str, task: Task, result: TaskResult, dataset: Dataset, said: CardSettings
) -> list[CardPart]:
    """The parts of a task's card.

    Args:
        name: of the task.
        task: its entry.
        result: what was measured.
        dataset: that it was trained on.
        said: by the user.
    """
    return [
        _model(name, task, result),
        _stated("Intended use", name, "intended_use", said),
        _stated("Out of scope", name, "out_of_scope", said),
        _data(task.data, dataset),
        CardPart("Training", facts=result.training.facts),
        _figures(result),
        _limits(name, result, dataset, said),
        _stated("Licence", name, "licence", said),
        _stated("Contact", name, "contact", said),
        _digests(name, task.data),
    ]


def _model(name: str, task: Task, result: TaskResult) -> CardPart:
    parts = result.training.parts
    whole, trained = (sum(count[of] for count in parts.values()) for of in ("all", "trained"))
    facts = [("Task", name), ("Kind", label(result.kind)), ("Weights", _size(result))]
    if parts:
        facts.append(("Parameters", f"{number(whole)}, of which {number(trained)} are trained"))
    if task.start:
        facts.append(("Starts from", task.start.rstrip("/").rpartition("/")[2]))
    return CardPart("Model", facts=facts)


def _size(result: TaskResult) -> str:
    return size(result.training.weights_bytes)


def _stated(title: str, name: str, key: str, said: CardSettings) -> CardPart:
    return CardPart(title, [str(getattr(said, key)) or _not_said(name, key)])


def _not_said(name: str, key: str) -> str:
    return f"Not stated. report.cards.{name}.{key} in conf/ says it."


def _data(name: str, dataset: Dataset) -> CardPart:
    account = dataset.account
    rejected, given = account["rows_quarantined"], account["rows_in"]
    splits = ", ".join(f"{split} {number(rows)}" for split, rows in account["rows_clean"].items())
    facts = [
        ("Dataset", name),
        ("Rows", f"{number(given)}, clean: {splits}"),
        ("Rejected", f"{number(rejected)} ({percent(rejected, given)})"),
    ]
    facts += [(label(reason), f"{number(rows)} rows") for reason, rows in dataset.reasons.items()]
    return CardPart("Data", facts=facts)


def _figures(result: TaskResult) -> CardPart:
    table = figure_table(result.metrics)
    facts = []
    for name, cells in table.rows.items():
        for part, cell in zip(table.parts, cells, strict=True):
            if cell is not None:
                value, interval = cell
                words = f"{value} (95 % interval {interval})" if interval else value
                facts.append((f"{name}, {part}" if part else name, words))
    return CardPart("Figures", [f"Measured on split {result.split}."], facts)


def _limits(name: str, result: TaskResult, dataset: Dataset, said: CardSettings) -> CardPart:
    texts = [said.limits or _not_said(name, "limits")]
    texts += [f"Of the data: {line}." for line in (*dataset.account["warnings"], *dataset.remarks)]
    left_out = result.details.get("left_out")
    if isinstance(left_out, Mapping):
        texts += [f"{full_label(figure)} is left out: {why}." for figure, why in left_out.items()]
    return CardPart("Limits", texts)


def _digests(name: str, data: str) -> CardPart:
    """SHA-256 of the weights, and of the lists of digests that name every other file."""
    model, bundle = paths.finetuned(name), paths.export(name)
    facts = [
        (f"{model}/{file}", digest)
        for file, digest in read_digests(model).items()
        if file.endswith(".safetensors")
    ]
    for folder in (paths.cache(data), bundle):
        if (folder / DIGESTS).is_file():
            facts.append((f"{folder}/{DIGESTS}", sha256_file(folder / DIGESTS)))
    return CardPart("SHA-256", facts=facts)


def as_markdown(name: str, parts: list[CardPart]) -> str:
    """A card as a file; what comes from data or settings is shown and does not act."""
    lines = [f"# Model card: {_plain(name)}"]
    for part in parts:
        lines += ["", f"## {part.title}", *(f"\n{_plain(text)}" for text in part.texts)]
        if part.facts:
            lines += ["", "| | |", "|---|---|"]
            lines += [f"| {_plain(what)} | {_plain(value)} |" for what, value in part.facts]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return html.escape(_MARKUP.sub(r"\\\1", one_line(text)), quote=False)
