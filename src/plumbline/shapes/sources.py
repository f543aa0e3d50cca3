"""Which of several places says what shape an input has."""

from collections.abc import Sequence

from plumbline.errors import ConfigError, DataError

Shape = tuple[int | None, ...]
"""Lengths by dimension; None for one that differs from row to row."""

POOLINGS = ("mean", "max", "last", "none")


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


def pooled_shape(steps: int, width: int, pooling: str, flatten: bool) -> tuple[int, ...]:
    """Shape of one row of a sequence [steps, width] after pooling over time.

    mean, max and last leave one vector, which is flat already; none keeps all steps, which
    `flatten` puts one after another.

    Raises:
        ConfigError: there is no such pooling.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling = {pooling!r}: one of {', '.join(POOLINGS)} is expected")
    if pooling != "none":
        return (width,)
    return (steps * width,) if flatten else (steps, width)
