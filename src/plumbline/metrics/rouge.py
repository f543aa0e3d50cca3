"""ROUGE of generated texts.

It is that of rouge-score, imported on first use because it is slow to import.
"""

from collections.abc import Sequence

from plumbline.metrics.scripts import words
from plumbline.metrics.text_overlap import check_references

_ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}


class _Words:
    """The tokenizer that rouge-score is given."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def rouge(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float | None]:
    """ROUGE-1, ROUGE-2 and ROUGE-L as F1 in [0, 1] under `rouge1`, `rouge2` and `rouge_l`.

    Each is the mean over the samples of the best F1 over the sample's references, as rouge-score
    computes it without stemming. Its tokens are those of `plumbline.metrics.scripts.words`: of
    ASCII its own, so that figures of English are those of others; of other scripts their words or,
    where these have no spaces between them, their characters. A figure is None where no reference
    has a word, or for `rouge2` no two.

    Raises:
        ValueError: there are no samples, the lengths differ, or a sample has no reference.
        TypeError: the references of a sample are one string instead of a sequence of them.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries.
    """
    return _rouge(predictions, references, tuple(_ROUGE_TYPES))


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """Compute the `rouge_l` of `rouge` alone; arguments and errors are the same."""
    return _rouge(predictions, references, ("rouge_l",))["rouge_l"]


def _rouge(
    predictions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, float | None]:
    check_references(predictions, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([_ROUGE_TYPES[name] for name in names], tokenizer=_Words())
    totals = dict.fromkeys(names, 0.0)
    scored: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for prediction, texts in zip(predictions, references, strict=True):
        sample = prediction, tuple(texts)
        if sample not in scored:
            scores = [scorer.score(text, prediction) for text in texts]
            scored[sample] = [max(s[_ROUGE_TYPES[n]].fmeasure for s in scores) for n in names]
        # Sample by sample, equal ones too: a sum of floats depends on its order.
        for name, value in zip(names, scored[sample], strict=True):
            totals[name] += value
    enough = _most_words(references)
    return {
        name: total / len(predictions) if enough >= (2 if name == "rouge2" else 1) else None
        for name, total in totals.items()
    }


def _most_words(references: Sequence[Sequence[str]]) -> int:
    """The words of the longest reference, counted up to two."""
    most = 0
    for texts in references:
        for text in texts:
            most = max(most, len(words(text)))
            if most >= 2:
                return most
    return most
