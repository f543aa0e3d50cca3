"""Cells of the tables of an evaluation."""

Value = str | float | None
"""A CSV has texts; a column of numbers holds numbers, and None where a cell is empty."""


def as_number(value: object) -> float:
    """A value that must be a number.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value
