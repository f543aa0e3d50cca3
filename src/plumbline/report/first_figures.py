"""Which figures of an evaluation come first: in the page, in the terminal, in Git.

An evaluation gives dozens: intervals, narrower embeddings, counts, baselines. Those listed here are
its metrics file, which Git records and `dvc metrics show` prints in a line; details.json has all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from plumbline.files import dump_json, write_json
from plumbline.metrics.known import split_part
from plumbline.report.figure_table import is_bound
from plumbline.report.figures import figure, share

RECALL = re.compile(r"([a-z]+_to_[a-z]+)_recall_at_(\d+)(?:_width_(\d+))?")
"""Direction, k, and the width of the embeddings where they are cut."""

DETAILS = "details.json"


class Details(TypedDict):
    """What the page knows of details.json; a kind may say more of its figures."""

    figures: dict[str, float]
    """Every figure of the evaluation."""
    title: NotRequired[str]
    """What the kind is called."""
    asked: NotRequired[list[str]]
    """Metrics that the settings added to those of the kind."""
    sampling: NotRequired[dict[str, object]]
    """Settings by which continuations were drawn."""


@dataclass(frozen=True)
class Rule:
    """A figure that comes first wherever a metrics file has it."""

    metric: str
    note: str = ""
    whole: float | None = None
    """What fills its bar; None: it has no bar."""
    baseline: str = ""
    """The figure that shows what little effort gives."""
    baseline_note: str = "{}"
    unless: str = ""
    """Left out where this figure is there."""
    detail: str = ""
    """What details.json has to say of it."""
    listed: bool = True
    """Git records it and DVC lists it; what is left out would not fit a line of a terminal."""


RULES = (
    Rule(
        "exact_match",
        whole=1,
        baseline="question_only_exact_match",
        baseline_note="{} from the question alone",
        unless="bleu",
    ),
    Rule("caption_bleu", "of 100", 100),
    Rule("caption_rouge_l", "of 1", 1, listed=False),
    Rule("answer_perplexity", "lower is better, 1 is perfect", listed=False),
    Rule("accuracy", whole=1),
    Rule("macro_f1", "the mean over classes", 1),
    Rule(
        "loss",
        baseline="unigram_loss",
        baseline_note="nats per token; {} from token frequencies alone",
    ),
    Rule("bleu", "of 100", 100, detail="bleu_signature"),
    Rule("rouge_l", "of 1", 1),
    Rule("perplexity", "lower is better, 1 is perfect"),
    Rule("r2", "share of the variance explained", 1),
    Rule("mae", "in units of the data"),
    Rule("zero_shot_accuracy", "by the captions of the classes", 1),
)
"""What comes first, in this order, part by part."""


def rules_with(asked: Iterable[str]) -> tuple[Rule, ...]:
    """The rules, and one for each metric that the settings added."""
    return (*RULES, *(Rule(name) for name in asked))


FIRST_FIGURES = 4
"""Shown of a file that no rule knows a figure of."""


def by_part(figures: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Part of a task, "" without one -> figure without its part -> name."""
    parts: dict[str, dict[str, str]] = {}
    for name in figures:
        part, base = split_part(name)
        parts.setdefault(part, {})[base] = name
    return parts


def first_of_unknown(figures: Mapping[str, float]) -> list[str]:
    """What comes first where no rule knows a figure."""
    return [name for name in figures if not is_bound(name, figures)][:FIRST_FIGURES]


def listed_figures(figures: Mapping[str, float], asked: Iterable[str] = ()) -> dict[str, float]:
    """The metrics file: what the rules list, and recall at the smallest k with all dimensions.

    What the settings `asked` for is listed in any case.
    """
    recalls = {name: match for name in figures if (match := RECALL.fullmatch(name))}
    smallest = min((int(match[2]) for match in recalls.values()), default=0)
    chosen = [
        name for name, match in recalls.items() if int(match[2]) == smallest and match[3] is None
    ]
    chosen += [
        names[rule.metric]
        for names in by_part(figures).values()
        for rule in rules_with(asked)
        if rule.listed and rule.metric in names and rule.unless not in names
    ]
    return {name: figures[name] for name in chosen or first_of_unknown(figures)}


def printed(name: str, value: float) -> str:
    """A figure as it is printed; recall is a fraction."""
    return share(value) if RECALL.fullmatch(name) else figure(name, value)


def in_words(figures: Mapping[str, float], asked: Iterable[str] = ()) -> list[str]:
    """What is listed, as the line of a stage says it."""
    return [
        f"{name} {printed(name, value)}" for name, value in listed_figures(figures, asked).items()
    ]


def write_figures(
    figures: Mapping[str, float],
    details: Mapping[str, object],
    out: Path,
    metrics: Path,
    asked: Sequence[str] = (),
) -> None:
    """Write details.json with all figures into an existing folder, and the metrics file."""
    said = {**details, **({"asked": list(asked)} if asked else {})}
    (out / DETAILS).write_text(dump_json({**said, "figures": dict(figures)}), encoding="utf-8")
    write_json(metrics, listed_figures(figures, asked))
