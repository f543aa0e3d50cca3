"""ROUGE of generated texts.

It is that of rouge-score, imported on first use because it is slow to import.
"""

from collections.abc import Sequence

from plumbline.metrics.text_overlap import check_references

_ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L as F1 in [0, 1] under `rouge1`, `rouge2` and `rouge_l`.

    Each is the mean over the samples of the best F1 over the sample's references, as rouge-score
    computes it without stemming. Its tokens are runs of a-z and 0-9 after lower-casing: letters
    outside them split words, and texts in other scripts score 0.

    Raises:
        ValueError: there are no samples, the lengths differ, or a sample has no reference.
        TypeError: the references of a sample are one string instead of a sequence of them.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries.
    """
    return _rouge(predictions, references, tuple(_ROUGE_TYPES))


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute the `rouge_l` of `rouge` alone; arguments and errors are the same."""
    return _rouge(predictions, references, ("rouge_l",))["rouge_l"]


def _rouge(
    predictions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, float]:
    check_references(predictions, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([_ROUGE_TYPES[name] for name in names])
    totals = dict.fromkeys(names, 0.0)
    for prediction, texts in zip(predictions, references, strict=True):
        best = scorer.score_multi(texts, prediction)
        for name in names:
            totals[name] += best[_ROUGE_TYPES[name]].fmeasure
    return {name: total / len(predictions) for name, total in totals.items()}
