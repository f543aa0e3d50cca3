"""What data of these columns is good for: a table of kinds of work and what each of them needs."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from plumbline.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """A kind of work, and what rows need to be of use to it."""

    kind: str
    """Of the task; `alignment` where encoders alone are trained."""
    needs: tuple[str, ...]
    """Canonical columns."""
    view: str
    """What the view is called that validation looks for."""
    words: str
    """What a model learns, for people."""
    keeps: tuple[str, ...] = ()
    """Columns that are taken as well where they are there."""


PLANS: tuple[Plan, ...] = (
    Plan("vlm", ("turns", "images"), "pictures", "what an assistant answers about images"),
    Plan("causal_lm", ("turns",), "chat", "what an assistant answers"),
    Plan(
        *("vlm", ("image", "question", "answer"), "qa", "answers about an image"),
        keeps=("caption",),
    ),
    *(
        Plan("classification", (medium, "label"), "classify", f"the label of {words}")
        for medium, words in (
            ("image", "an image"),
            ("audio", "a sound"),
            ("features", "a sequence"),
        )
    ),
    Plan("vlm", ("image", "caption"), "caption", "captions of images"),
    Plan("alignment", ("audio", "caption"), "caption", "sounds and texts in one space"),
    *(
        Plan("regression", (medium, "value"), "measure", f"the number of {words}")
        for medium, words in (
            ("image", "an image"),
            ("audio", "a sound"),
            ("features", "a sequence"),
        )
    ),
    Plan("seq2seq", ("source", "target"), "translate", "a text from a text"),
    Plan("classification", ("text", "label"), "classify", "the label of a text"),
    Plan("regression", ("text", "value"), "measure", "the number of a text"),
    Plan("causal_lm", ("question", "answer"), "answer", "answers to questions"),
    Plan("causal_lm", ("text",), "language", "the next words of a text"),
    Plan("masked_lm", ("text",), "language", "hidden words of a text"),
    Plan("alignment", ("image", "caption"), "caption", "images and texts in one space"),
)
"""The first whose columns are there is proposed."""

KINDS = tuple(dict.fromkeys(plan.kind for plan in PLANS))
KEPT = ("sample_id", "group", "split")
"""Columns that any kind of work takes."""


def choose_plan(there: AbstractSet[str], kind: str | None, fields: Iterable[str]) -> Plan:
    """The first plan whose columns are there.

    Args:
        there: canonical columns.
        kind: what the command line asks for; None for any.
        fields: names of the columns in the files, for the message.

    Raises:
        ConfigError: none fits; says what is missing and the option that names it.
    """
    wanted = [plan for plan in PLANS if kind in (None, plan.kind)]
    fitting = [plan for plan in wanted if set(plan.needs) <= there]
    if fitting:
        return fitting[0]
    named = [plan for plan in wanted if "turns" not in plan.needs] or wanted
    nearest = min(named, key=lambda plan: len(set(plan.needs) - there))
    missing = [role for role in nearest.needs if role not in there]
    found = ", ".join(sorted(there - set(KEPT))) or "nothing"
    names = ", ".join(fields)
    of = f"task {kind} needs {' and '.join(nearest.needs)}" if kind else "nothing to learn"
    raise ConfigError(
        f"{of}: there is {found}, and no {' or '.join(missing)}; name the column with "
        f"{' '.join(f'--{role} COLUMN' for role in missing)}"
        + (f" (columns are {names})" if names else "")
    )


def view_of(plan: Plan, columns: AbstractSet[str]) -> dict[str, list[str]]:
    """The views that validation looks for, of the columns that rows have."""
    views = {plan.view: list(plan.needs)}
    if plan.needs == ("turns", "images"):
        views["chat"] = ["turns"]  # some show none
    if "caption" in columns and "caption" not in plan.needs:
        views["caption"] = [plan.needs[0], "caption"]
    return views
