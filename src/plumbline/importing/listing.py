"""The files of a folder by name: what a layout is recognised from."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from plumbline.data.columns import SPLITS
from plumbline.importing.fields import medium_of, medium_of_name
from plumbline.sources.files import (
    SPLIT_WORDS,
    is_ours,
    list_files,
    open_file,
    why_passed_over,
)

MAX_LISTED = 300_000
"""Files of a folder that are looked at; of more, the first by name."""
_SNIFFED = 200


@dataclass(frozen=True)
class Listing:
    """Names of the files below a folder, with slashes, without hidden ones."""

    root: Path
    names: list[str]
    whole: bool
    """Whether these are all."""

    @cached_property
    def endings(self) -> dict[str, list[str]]:
        """Ending in small letters -> names."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
        return found

    @cached_property
    def media(self) -> dict[str, list[str]]:
        """`image` and `audio` -> names, by their endings, and by content where that is no known."""
        found: dict[str, list[str]] = {"image": [], "audio": []}
        unknown = []
        for name in self.names:
            medium = medium_of_name(name)
            if medium:
                found[medium].append(name)
            else:
                unknown.append(name)
        for name in unknown[:_SNIFFED]:
            if medium := self.sniff(name):
                found[medium].append(name)
        return {medium: sorted(names) for medium, names in found.items()}

    def sniff(self, name: str) -> Literal["image", "audio"] | None:
        """What a file is, by its first bytes."""
        with open_file(self.root / name) as file:
            return medium_of(file.read(4096))

    def of(self, *endings: str) -> list[str]:
        """Names with one of these endings, sorted."""
        return sorted(name for ending in endings for name in self.endings.get(ending, ()))

    def described(self) -> str:
        """How many files of which endings, for a message."""
        counts = Counter(
            {ending or "no ending": len(names) for ending, names in self.endings.items()}
        )
        told = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))
        return told or "no file"


def list_folder(root: Path) -> Listing:
    """List a folder to any depth."""
    ours = (name for name in list_files(root) if all(map(is_ours, PurePosixPath(name).parts)))
    names = list(islice(ours, MAX_LISTED + 1))
    return Listing(root, names[:MAX_LISTED], len(names) <= MAX_LISTED)


def split_of(word: str) -> str | None:
    """The split that a word stands for."""
    return SPLIT_WORDS.get(word.lower())


def split_of_name(name: str) -> str | None:
    """The split that a file's name or its nearest folder says; None where neither does."""
    path = PurePosixPath(name)
    stem = path.name.partition(".")[0]
    words = stem.replace("_", "-").replace(".", "-").split("-")
    for word in (*words, *reversed(path.parent.parts)):
        if split := split_of(word):
            return split
    return None


def rows_of_splits(rows_of: Mapping[str, int]) -> dict[str, int]:
    """Rows of the files whose names say each split.

    Args:
        rows_of: file -> its rows.
    """
    found: dict[str, int] = {}
    for name, rows in rows_of.items():
        if split := split_of_name(name):
            found[split] = found.get(split, 0) + rows
    return found


def places_of_splits(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split -> the file, folder or pattern that chooses its files out of these, and no other.

    Returns:
        The places, empty where not at least train is said, and the files in none of them.
    """
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(split_of_name(name) or "", []).append(name)
    others = by_split.pop("", [])
    if "train" not in by_split or len(by_split) < 2:
        return {}, []
    places = {split: _place_of(by_split[split], names) for split in SPLITS if split in by_split}
    known = {split: place for split, place in places.items() if place}
    return (known, others) if len(known) == len(places) else ({}, [])


def _place_of(chosen: Sequence[str], names: Sequence[str]) -> str:
    """The first place of several that chooses these names and no other; empty where none does."""
    paths = [PurePosixPath(name) for name in chosen]
    files = sorted(path.name for path in paths)
    pairs = zip(files[0], files[-1], strict=False)
    alike = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    # Not into the number of a shard: those to come may have another.
    start = alike.rstrip("0123456789") if len(files) > 1 else alike.partition(".")[0]
    ending = paths[0].suffix
    above = PurePosixPath(os.path.commonpath([path.parent for path in paths]))
    places = [chosen[0]] if len(chosen) == 1 else []
    places += [above.as_posix()] if above.parts else []
    places += [(above / f"{start}*{ending}").as_posix(), f"**/{start}*{ending}"]
    for place in places:
        found = [n for n in names if why_passed_over(n, {"": place}, lambda _: True, "") is None]
        if sorted(found) == sorted(chosen):
            return place
    return ""
