"""What settings mean is read from the texts below their fields."""

from plumbline.config import Config
from plumbline.schema.meanings import meaning_of, meaning_of_class


class Plain(Config):
    """A group."""

    said: int = 1
    """Over two
    lines; None: nothing."""
    unsaid: int = 2


class Extended(Plain):
    said: int = 3
    more: int = 4
    """Said here."""


def test_the_text_below_a_field_is_its_meaning_in_one_line() -> None:
    assert meaning_of(Plain, "said") == "Over two lines; null: nothing."
    assert meaning_of(Plain, "unsaid") == ""


def test_what_a_class_leaves_unsaid_the_one_that_it_extends_says() -> None:
    assert meaning_of(Extended, "said") == "Over two lines; null: nothing."
    assert meaning_of(Extended, "more") == "Said here."
    assert meaning_of_class(Extended) == "A group."
