"""Captions for an alignment, where images have questions and answers alone."""

import re
from dataclasses import dataclass

from plumbline.importing.sizes import Sizes
from plumbline.importing.tables import Settings

COMMON = 0.1
"""Share of the questions that an answer is given to, from which on it tells few images apart."""


@dataclass(frozen=True)
class AnswerCaptions:
    """Questions with those of their answers that tell images apart."""

    source: Settings
    """What makes them in the dataset's source."""
    words: str


def captions_of_answers(sizes: Sizes) -> AnswerCaptions | None:
    """Captions of all questions but those whose answers are common, such as yes and no.

    None where they are fewer than one for two images.
    """
    counts, rows = sizes.answers, sizes.tried_rows
    common = sorted(one for one, count in counts.items() if count > COMMON * rows)
    images = rows * sizes.samples("pairs") // sizes.train_rows
    if not counts or 2 * (rows - sum(counts[one] for one in common)) < images:
        return None
    others = "".join(rf"(?!{re.escape(one)}\Z)" for one in common)
    # A flag for the whole pattern could not stand in the source's own.
    rule = {"question": "(?s:.+)", "answer": f"(?s:{others}.+)", "caption": r"\g<0> {answer}"}
    but = f", but for {' and '.join(common)}, which many share" if common else ""
    return AnswerCaptions({"captions": [rule]}, f"caption: questions with their answers{but}")
