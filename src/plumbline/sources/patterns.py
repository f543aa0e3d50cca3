"""Patterns of paths: what a place with wildcards stands for."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath


def is_pattern(place: str) -> bool:
    """Whether a place has wildcards: `*` and `?` stay within a folder, `**/` is any folders."""
    return any(mark in place for mark in "*?[")


def has_pattern(name: str, pattern: str) -> bool:
    """Whether a path has a pattern."""
    return is_pattern(pattern) and _are_alike(
        PurePosixPath(name).parts, PurePosixPath(pattern).parts
    )


def is_within(name: str, places: Sequence[str]) -> bool:
    """Whether a file is one of several places, or below one: files, folders or patterns."""
    parts = PurePosixPath(name).parts
    tops = [parts[:end] for end in range(1, len(parts) + 1)]
    return any(_are_alike(top, PurePosixPath(place).parts) for place in places for top in tops)


def _are_alike(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    # Part by part: over a whole path the star of fnmatch would run over folders.
    if not patterns:
        return not parts
    first, *rest = patterns
    if first == "**":
        return any(_are_alike(parts[passed:], rest) for passed in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], first) and _are_alike(parts[1:], rest)
