"""What every inspection gives: something to read, and the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, object]

OPEN, CLOSE = "\u27e6", "\u27e7"
"""Around a part of a text that stands out: on a terminal it is coloured (`cli.inspect`)."""


@dataclass(frozen=True)
class Report:
    """The result of an inspection."""

    text: str
    data: Mapping[str, object]
    """Plain JSON types."""


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Lay out rows in columns: texts to the left, numbers to the right.

    Args:
        rows: with the keys of `columns`; None is shown as nothing.
        columns: key -> heading.
    """
    cells = [[_show(row[key]) for key in columns] for row in rows]
    widths = [
        max(len(heading), *(len(line[at]) for line in cells)) if cells else len(heading)
        for at, heading in enumerate(columns.values())
    ]
    left = [all(isinstance(row[key], str) for row in rows) for key in columns]
    lines = [list(columns.values()), *cells]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def _show(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
