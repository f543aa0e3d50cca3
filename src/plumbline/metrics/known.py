"""What is known of every figure: which way is better, and when it means nothing for the data.

No torch and no numpy: settings are checked with it. A figure of one part of a dataset is called
`<part>/<figure>`; figures have no slash, so no two names can meet, whatever parts are called.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from plumbline.registry import Registry

Direction = Literal["min", "max"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """A figure of a validation or an evaluation."""

    better: Direction
    undefined: str = ""
    """When it has no value."""


METRICS: Registry[Metric] = Registry("metric")
"""Figure -> what is known of it; a plugin may add a line."""

_OVERFLOW = "the loss is so high that its exponential exceeds the largest float"
_ONE_CLASS = "all samples have one class, so a constant answer is right"
_CONSTANT = "all values are equal"
_GIVEN = "there are so few candidates that any model finds one that is right"
_SHORT = "no reference has four tokens, so even the references themselves score 0"
_NO_WORD = "no reference has a word"

for _name, _metric in {
    "loss": Metric("min"),
    "perplexity": Metric("min", _OVERFLOW),
    "answer_perplexity": Metric("min", _OVERFLOW),
    "unigram_loss": Metric("min"),
    "token_accuracy": Metric("max"),
    "log_loss": Metric("min"),
    "expected_calibration_error": Metric("min"),
    "accuracy": Metric("max", _ONE_CLASS),
    "top_5_accuracy": Metric("max", _ONE_CLASS),
    "balanced_accuracy": Metric("max", _ONE_CLASS),
    "macro_f1": Metric("max", _ONE_CLASS),
    "mean_accuracy": Metric("max", _ONE_CLASS),
    "mean_macro_f1": Metric("max", _ONE_CLASS),
    "zero_shot_accuracy": Metric("max", _ONE_CLASS),
    "mse": Metric("min"),
    "mae": Metric("min"),
    "r2": Metric("max", _CONSTANT),
    "pearson": Metric("max", "all predictions or all values are equal"),
    "exact_match": Metric("max"),
    "question_only_exact_match": Metric("max"),
    "token_f1": Metric("max"),
    **{
        f"{prefix}{name}": metric
        for prefix in ("", "caption_")
        for name, metric in {
            "bleu": Metric("max", _SHORT),
            "rouge1": Metric("max", _NO_WORD),
            "rouge2": Metric("max", "no reference has two words"),
            "rouge_l": Metric("max", _NO_WORD),
        }.items()
    },
}.items():
    METRICS.register(_name, _metric)

_RECALL = re.compile(r"[a-z]+_to_[a-z]+_recall_at_\d+(_width_\d+)?")


def find_metric(name: str) -> Metric | None:
    """What is known of a figure, with its part in front or not; None: nothing."""
    _, figure = split_part(name)
    if _RECALL.fullmatch(figure):
        return Metric("max", _GIVEN)
    return METRICS.entries().get(figure)


def figure_name(part: str, figure: str) -> str:
    """The name of a figure of a part; the unnamed part has none in front."""
    return f"{part}/{figure}" if part else figure


def split_part(name: str) -> tuple[str, str]:
    """The inverse of `figure_name`.

    >>> split_part("digit/balanced_accuracy"), split_part("a/b/f1"), split_part("loss")
    (('digit', 'balanced_accuracy'), ('a/b', 'f1'), ('', 'loss'))
    """
    part, _, figure = name.rpartition("/")
    return part, figure


def leave_out_undefined(
    figures: Mapping[str, float | None],
) -> tuple[dict[str, float], dict[str, str]]:
    """Part the figures that have a value from those that mean nothing, with the reason of each."""
    defined: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, value in figures.items():
        if value is not None and math.isfinite(value):
            defined[name] = value
            continue
        metric = find_metric(name)
        known = metric.undefined if metric and value is None else ""
        reasons[name] = known or "it is no finite number"
    return defined, reasons


def say_left_out(reasons: Mapping[str, str]) -> None:
    """Log the figures that mean nothing for the data."""
    for name, reason in reasons.items():
        logger.warning("%s is left out: %s", name, reason)


def drop_undefined(figures: Mapping[str, float | None]) -> dict[str, float]:
    """The figures that are no None; of each other one a line says why it means nothing."""
    say_left_out(leave_out_undefined({n: v for n, v in figures.items() if v is None})[1])
    return {name: value for name, value in figures.items() if value is not None}
