"""What report.json in the quarantine holds: the account of a validation."""

from pathlib import Path
from typing import NotRequired, TypedDict

from plumbline.errors import DataError
from plumbline.validation.leaks import Leak

WHOLE = ("media", "texts", "near_images", "near_texts")
"""Leaks of all that a row is about; others are of one column."""


class Report(TypedDict):
    """What `validate` finds, in JSON types."""

    level: str
    rows_in: int
    rows_clean: dict[str, int]
    """By split."""
    rows_quarantined: int
    reasons: dict[str, int]
    examples: dict[str, list[dict[str, str | int | None]]]
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


def counts_of_leaks(report: Report) -> dict[str, int]:
    """What of a report DVC compares between commits.

    Leaks of whole rows alone, which should be none: each further count is a column of `dvc metrics
    show`, where evaluations would not be seen for them. Cells of one column may well repeat.
    """
    return {
        f"{leak['what']}_of_{leak['split']}_in_{leak['other']}": leak["rows"]
        for leak in report.get("leaks", [])
        if leak["what"] in WHOLE
    }


def check_sums(report: Report, judged: int, raw: Path) -> None:
    """Every row that came in went to exactly one place, in total and for every file.

    Raises:
        DataError: fewer rows came in than were judged.
    """
    if report["rows_in"] != judged:
        raise DataError(f"{raw}: changed while it was validated; run again")
    for where in (*report["files"].values(), _totals(report)):
        if where["rows_in"] != where["rows_clean"] + where["rows_quarantined"]:
            raise AssertionError(f"rows do not add up: {where}")


def _totals(report: Report) -> dict[str, int]:
    return {
        "rows_in": report["rows_in"],
        "rows_clean": sum(report["rows_clean"].values()),
        "rows_quarantined": report["rows_quarantined"],
    }
