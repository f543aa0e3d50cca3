"""How well generated texts and answers agree with reference texts.

BLEU is that of sacrebleu, imported on first use because it is slow to import.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from plumbline.metrics.scripts import BleuTokenizer, is_chinese, is_mostly_unspaced

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU


def normalize_answer(text: str) -> str:
    """Bring an answer to the form in which answers are compared.

    The rules, in this order: lower case; Unicode NFC; runs of white space become one space and
    those at the ends go; trailing `.`, `?`, `!` and the spaces among them go, unless nothing else
    is left. Articles and inner punctuation stay, unlike in SQuAD: "a" can be an answer, and
    "3.5" differs from "35".
    """
    collapsed = " ".join(unicodedata.normalize("NFC", text.lower()).split())
    return collapsed.rstrip(".?! ") or collapsed


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference after `normalize_answer`, in [0, 1].

    Raises:
        ValueError: there are no samples, or the lengths differ.
    """
    _check_lengths(predictions, references)
    matches = sum(
        normalize_answer(prediction) == normalize_answer(reference)
        for prediction, reference in zip(predictions, references, strict=True)
    )
    return matches / len(predictions)


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean over the samples of the F1 of the two bags of tokens, in [0, 1].

    Tokens are the words of `normalize_answer` between spaces. Two texts without tokens agree (1),
    a text without tokens and one with some do not (0).

    Raises:
        ValueError: there are no samples, or the lengths differ.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    """
    _check_lengths(predictions, references)
    total = sum(
        _bag_f1(normalize_answer(prediction).split(), normalize_answer(reference).split())
        for prediction, reference in zip(predictions, references, strict=True)
    )
    return total / len(predictions)


def _bag_f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted and not expected:
        return 1.0
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def corpus_bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: BleuTokenizer = "auto",
) -> tuple[float | None, str]:
    """Corpus BLEU with the standard settings of sacrebleu, and its signature.

    Mixed case, exponential smoothing, n-grams up to 4. Short predictions score little even where
    they are right; use `exact_match` for answers of a few words.

    Args:
        predictions: one text a sample, not tokenised.
        references: the accepted texts of each sample, at least one; numbers may differ.
        tokenizer: what sacrebleu cuts texts by; auto: as most letters of the references need it,
            zh for Chinese, char for other scripts without spaces between words, else 13a.

    Returns:
        The score from 0 to 100, None where no reference has four tokens and so even the references
        would score 0; and the signature to publish beside it, which names the tokenizer.

    Raises:
        ValueError: there are no samples, the lengths differ, or a sample has no reference.
        TypeError: the references of a sample are one string instead of a sequence of them.

    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771.
    """
    check_references(predictions, references)
    from sacrebleu.metrics.bleu import BLEU

    if tokenizer == "auto":
        tokenizer = _bleu_tokenizer([text for texts in references for text in texts])
    bleu = BLEU(tokenize=tokenizer)
    score = _bleu(bleu, predictions, references)
    texts = (text for texts in references for text in texts)
    has_figure = any(len(bleu.tokenizer(text).split()) >= 4 for text in texts)
    return score if has_figure else None, str(bleu.get_signature())


_AT_ONCE = 64
"""Samples that sacrebleu is given together: it keeps all their n-grams, through which Python
looks for garbage again and again."""


def _bleu(bleu: "BLEU", predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The score of a corpus by that of its parts: BLEU is a function of sums of whole numbers.

    Samples with the same texts are counted by the library once, and by their number here.
    """
    distinct = Counter(zip(predictions, map(tuple, references), strict=True))
    by_number: defaultdict[int, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for sample, number in distinct.items():
        by_number[number].append(sample)
    # [2 + 2 * n-gram orders]: lengths of predictions and references, n-grams right, n-grams made
    sums = [0] * (2 + 2 * bleu.max_ngram_order)
    for number, samples in by_number.items():
        for at in range(0, len(samples), _AT_ONCE):
            some = samples[at : at + _AT_ONCE]
            part = bleu.corpus_score([text for text, _ in some], _streams(some))
            found = [part.sys_len, part.ref_len, *part.counts, *part.totals]
            sums = [total + number * n for total, n in zip(sums, found, strict=True)]
    numbers = {len(texts) for texts in references}
    bleu.num_refs = numbers.pop() if len(numbers) == 1 else -1  # as the library says "vary"
    sys_len, ref_len, *ngrams = sums
    whole = bleu.compute_bleu(
        ngrams[: bleu.max_ngram_order],
        ngrams[bleu.max_ngram_order :],
        sys_len,
        ref_len,
        smooth_method=bleu.smooth_method,
    )
    return whole.score


def _streams(samples: Sequence[tuple[str, tuple[str, ...]]]) -> list[list[str]]:
    """The references as sacrebleu wants them: the first of every sample, the second, and so on."""
    most = max(len(texts) for _, texts in samples)
    # None is an absent reference; an empty string would be a reference of length 0.
    streams = [[texts[i] if i < len(texts) else None for _, texts in samples] for i in range(most)]
    return cast(list[list[str]], streams)  # its types forget that one may be absent


def _bleu_tokenizer(texts: Sequence[str]) -> BleuTokenizer:
    if not is_mostly_unspaced(texts):
        return "13a"
    return "zh" if is_chinese(texts) else "char"


def question_only_baseline(
    train_questions: Sequence[str], train_answers: Sequence[str], questions: Sequence[str]
) -> list[str]:
    """Answer each question with the most frequent training answer to the same words.

    What this scores needs no image, so a figure for visual questions means little without it.
    Questions and answers are compared and returned in the form of `normalize_answer`. A question
    that training does not have gets the most frequent answer of all; ties go to the answer that
    sorts first.

    Raises:
        ValueError: there are no training samples, or the lengths differ.

    Source: the prior baselines of Agrawal et al. 2015, arXiv:1505.00468.
    """
    _check_lengths(train_questions, train_answers)
    overall: Counter[str] = Counter()
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in zip(train_questions, train_answers, strict=True):
        answer = normalize_answer(answer)
        overall[answer] += 1
        by_question[normalize_answer(question)][answer] += 1
    usual = {question: _most_frequent(answers) for question, answers in by_question.items()}
    fallback = _most_frequent(overall)
    return [usual.get(normalize_answer(question), fallback) for question in questions]


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _check_lengths(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} texts against {len(second)}: must be one for one")
    if not first:
        raise ValueError("no samples: the score is undefined")


def check_references(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse references that do not belong to the predictions.

    Raises:
        ValueError: there are no samples, the lengths differ, or a sample has no reference.
        TypeError: the references of a sample are one string instead of a sequence of them.
    """
    _check_lengths(predictions, references)
    for row, texts in enumerate(references):
        if isinstance(texts, str):
            raise TypeError(f"references of sample {row}: one string, expected a sequence of them")
        if not texts:
            raise ValueError(f"sample {row}: has no reference")
