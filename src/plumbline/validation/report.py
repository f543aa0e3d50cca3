"""What report.json in the quarantine holds: the account of a validation."""

from typing import NotRequired, TypedDict

from plumbline.validation.leaks import Leak


class Report(TypedDict):
    """What `validate` finds, in JSON types."""

    level: str
    rows_in: int
    rows_clean: dict[str, int]
    """By split."""
    rows_quarantined: int
    reasons: dict[str, int]
    examples: dict[str, list[dict[str, str | int]]]
    """Reason -> the first rows with it."""
    files: dict[str, dict[str, int]]
    views: dict[str, dict[str, int]]
    """View -> split -> rows."""
    blanked: dict[str, int]
    cleaned: dict[str, dict[str, int]]
    warnings: list[str]
    leaks: NotRequired[list[Leak]]
    """Content that stands in several splits, where there is any."""
    parts: NotRequired[dict[str, dict[str, int]]]
    """Part -> split -> rows, where the data has parts."""
