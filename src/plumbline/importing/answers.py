"""Captions for an alignment, where images have questions and answers alone."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.importing.sizes import Sizes
from plumbline.importing.tables import Settings

COMMON = 0.1
"""Share of the questions that an answer is given to, from which on it tells few images apart."""
SELDOM, FEWEST_ASKED = 1 / 3, 5
"""Share of the times that a question is asked, of so many at least, up to which such an answer to
it tells images apart all the same: most are not what "is it blue?" asks."""
MOST_LISTED = 200
"""Questions of a rule, which people have to read."""


@dataclass(frozen=True)
class AnswerCaptions:
    """Questions with those of their answers that tell images apart."""

    source: Settings
    """What makes them in the dataset's source."""
    words: str


def captions_of_answers(sizes: Sizes) -> AnswerCaptions | None:
    """Captions of all questions but those whose answers are common, such as yes and no.

    Of these there are captions of questions that they are seldom the answer to. None where there is
    less than one for two images, common answers aside.
    """
    counts, rows = sizes.answers, sizes.tried_rows
    common = sorted(one for one, count in counts.items() if count > COMMON * rows)
    images = rows * sizes.samples("pairs") // sizes.train_rows
    if not counts or 2 * (rows - sum(counts[one] for one in common)) < images:
        return None
    others = "".join(rf"(?!{re.escape(one)}\Z)" for one in common)
    # A flag for the whole pattern could not stand in the source's own.
    rules = [_rule("(?s:.+)", f"(?s:{others}.+)")]
    for one in common:
        if questions := _seldom_answered(one, common, sizes.trial.answered):
            rules.append(_rule("|".join(map(_escape, questions)), _escape(one)))
    but = f", but for {' and '.join(common)}, which many share" if common else ""
    seldom = " unless they are seldom given to that question" if len(rules) > 1 else ""
    words = f"caption: questions with their answers{but}{seldom}"
    return AnswerCaptions({"captions": rules}, words)


def _rule(question: str, answer: str) -> Settings:
    return {"question": question, "answer": answer, "caption": r"\g<0> {answer}"}


def _escape(text: str) -> str:
    """A pattern of a text, for people too: they read blanks more easily as they are."""
    return re.escape(text).replace(r"\ ", " ")


def _seldom_answered(
    answer: str, common: Sequence[str], answered: Counter[tuple[str, str]]
) -> list[str]:
    """Questions that are mostly answered by others of `common`, the most frequent first."""
    asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (question, told), count in answered.items():
        asked[question][told] += count
    found = {
        question: answers.total()
        for question, answers in asked.items()
        if answers.total() >= FEWEST_ASKED
        and answers[answer] <= SELDOM * answers.total()
        and 2 * sum(answers[one] for one in common) > answers.total()
    }
    return sorted(found, key=lambda question: (-found[question], question))[:MOST_LISTED]
