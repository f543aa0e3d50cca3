"""What report.json in the quarantine holds: the account of a validation."""

from typing import NotRequired, TypedDict


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
    parts: NotRequired[dict[str, dict[str, int]]]
    """Part -> split -> rows, where the data has parts."""
