"""What is said of answers, whatever they answer."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from plumbline.evaluation.result import Row
from plumbline.metrics.intervals import bootstrap_interval
from plumbline.metrics.perplexity import perplexity
from plumbline.metrics.text_overlap import exact_match, normalize_answer, token_f1


class Answered(Protocol):
    """A prompt that was answered."""

    @property
    def prompt(self) -> str:
        """What was asked."""

    @property
    def correct(self) -> bool:
        """Whether the answer is the known one."""


def answer_figures(
    predicted: Sequence[str],
    references: Sequence[str],
    guesses: Sequence[str],
    nll: tuple[float, int],
) -> dict[str, float | None]:
    """The figures of answers; exact match with the ends of its 95 % interval.

    Args:
        predicted: what the model says.
        references: what the data says.
        guesses: the best answers that can be had without looking.
        nll: sum in nats of the known answers, and the tokens that it is over.
    """
    hits = [
        normalize_answer(said) == normalize_answer(known)
        for said, known in zip(predicted, references, strict=True)
    ]
    low, high = bootstrap_interval(np.array(hits, np.float64), seed=0)
    return {
        "exact_match": exact_match(predicted, references),
        "exact_match_low": low,
        "exact_match_high": high,
        "token_f1": token_f1(predicted, references),
        "question_only_exact_match": exact_match(guesses, references),
        "answer_perplexity": perplexity(*nll),
        "questions": float(len(references)),
    }


def by_prompt(predictions: Sequence[Answered]) -> list[Row]:
    """Exact match by how prompts begin."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for prediction in predictions:
        # The first two words tell what is asked for: how many, what colour.
        groups[" ".join(prediction.prompt.split()[:2])].append(prediction.correct)
    # By name where counts are equal, so that the table is the same each time.
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"question": start, "count": len(hits), "exact_match": sum(hits) / len(hits)}
        for start, hits in ranked
    ]
