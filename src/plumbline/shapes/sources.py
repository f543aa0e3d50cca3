"""Which of several places says what shape an input has."""

from collections.abc import Sequence

from plumbline.errors import DataError

Shape = tuple[int | None, ...]
"""Lengths by dimension; None for one that differs from row to row."""


def find_shape(what: str, sources: Sequence[tuple[str, Shape | None]]) -> Shape:
    """Take the shape from the first source that has one.

    Args:
        what: the input, for the message.
        sources: (name, shape or None), the most trusted first.

    Raises:
        DataError: none has one; the text lists all that were asked.
    """
    for _, shape in sources:
        if shape is not None:
            return shape
    tried = ", ".join(name for name, _ in sources)
    raise DataError(f"no shape of {what} can be found; tried in this order: {tried}")
