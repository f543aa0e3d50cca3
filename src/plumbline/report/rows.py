"""The rows that a page names: each prediction links to the whole of what its row says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SHOWN_CHARS = 600
"""Of a text of a row."""


@dataclass(frozen=True)
class ShownRow:
    """A row of a cache, as printed."""

    anchor: str
    sample_id: str
    split: str
    at: int
    """Counted from 0 in its file."""
    file: Path
    cells: Mapping[str, str]
    """Column -> what it holds; empty ones are left out."""


@dataclass
class ShownRows:
    """The rows of one dataset that some prediction of the page is about."""

    prefix: str
    """Begins their anchors."""
    _rows: dict[tuple[str, int], ShownRow] = field(default_factory=dict)

    def note(self, split: str, at: int, file: Path, cells: Mapping[str, str]) -> str:
        """Keep a row, and give the anchor that a link leads to."""
        anchor = f"{self.prefix}-{split}-{at}"
        cut = {
            name: text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
            for name, text in cells.items()
            if name != "sample_id"
        }
        row = ShownRow(anchor, cells.get("sample_id", ""), split, at, file, cut)
        self._rows.setdefault((split, at), row)
        return anchor

    def listed(self) -> list[ShownRow]:
        """All of them, split by split in the order of their files."""
        return [self._rows[key] for key in sorted(self._rows)]
