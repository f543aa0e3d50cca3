"""Layouts of folders: files in a folder for each label, and plain texts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from plumbline.data.columns import SPLITS
from plumbline.errors import ConfigError
from plumbline.importing.delimited import guess_encoding, read_start
from plumbline.importing.drafts import Asked, Draft, find_splits
from plumbline.importing.fields import MEDIA_SUFFIXES
from plumbline.importing.listing import Listing, rows_of_splits, split_of
from plumbline.importing.plans import choose_plan
from plumbline.importing.roles import Role
from plumbline.importing.tables import Settings


def class_folders(listing: Listing, asked: Asked) -> Draft | None:
    """A folder for each label, in folders of splits or not, perhaps below one of another name."""
    medium = max(listing.media, key=lambda one: len(listing.media[one]))
    names = listing.media[medium]
    if not names or len(names) < 0.5 * len(listing.names):
        return None
    root, names = _unwrapped(listing.root, names)
    tops = Counter(PurePosixPath(name).parts[0] for name in names if "/" in name)
    said = {split: top for top in sorted(tops) if (split := split_of(top))}
    splits = {split: said[split] for split in SPLITS if split in said}
    if len(splits) != len(tops) or "train" not in splits:
        splits = {}
    depth = 2 if splits else 1
    labels = Counter(
        parts[depth - 1] for name in names if len(parts := PurePosixPath(name).parts) > depth
    )
    inside = sum(labels.values())
    if asked.roles.get("label") == "none" or not labels:
        raise ConfigError(_unlabelled(listing, medium, len(names)))
    if len(labels) == 1:
        raise ConfigError(
            f"{root.as_posix()}: one folder of {medium} files alone, {next(iter(labels))}: a "
            "folder for each label is needed, or a table that says more"
        )
    if len(labels) > max(2, inside // 2):
        raise ConfigError(
            f"{root.as_posix()}: {len(labels)} folders for {inside} files: folders are labels "
            "where several files share one"
        )
    source: Settings = {"source": f"{medium}folder", "labels": "folder"}
    notes = []
    if _has_other_endings(names, medium):
        source["endings"] = "any"
        notes.append("endings any: files without a known ending are of the medium by content")
    if root != listing.root:
        notes.append(f"path {root.as_posix()}: all files lie there")
    plan = choose_plan({medium, "label"}, asked.task, ())
    counts = ", ".join(f"{label} {count}" for label, count in labels.most_common(4))
    more = ", ..." if len(labels) > 4 else ""
    roles = [
        Role(medium, "files", f"{inside} files are {'images' if medium == 'image' else 'sounds'}"),
        Role("label", "folders", f"{len(labels)} folders with files: {counts}{more}"),
    ]
    if splits:
        roles.append(Role("split", "folders", f"{', '.join(splits.values())} are words for splits"))
    layout = f"class folders of {'images' if medium == 'image' else 'sounds'}"
    draft = Draft(layout, root, source, plan, roles, inside, listing.whole, splits=splits)
    return replace(draft, split_rows=_files_of(splits, names), notes=notes)


def _files_of(splits: Mapping[str, str], names: Sequence[str]) -> dict[str, int]:
    """Split -> the files in its folder."""
    tops = Counter(PurePosixPath(name).parts[0] for name in names)
    return {split: tops[top] for split, top in splits.items()}


def _unwrapped(root: Path, names: list[str]) -> tuple[Path, list[str]]:
    """Go down while one folder holds everything, and folders again."""
    while True:
        tops = {PurePosixPath(name).parts[0] for name in names}
        deep = all(len(PurePosixPath(name).parts) > 2 for name in names)
        if len(tops) != 1 or not deep or split_of(next(iter(tops))):
            return root, names
        (top,) = tops
        root, names = root / top, [name[len(top) + 1 :] for name in names]


def _has_other_endings(names: Sequence[str], medium: str) -> bool:
    return any(PurePosixPath(name).suffix.lower() not in MEDIA_SUFFIXES[medium] for name in names)


def _unlabelled(listing: Listing, medium: str, files: int) -> str:
    return (
        f"{listing.root.as_posix()}: {files} {medium} files without a label: put them into a "
        "folder for each label, or a table beside them that names each file and says more"
    )


def texts(listing: Listing, asked: Asked) -> Draft | None:
    """Text files: one text, or many."""
    names = listing.of(".txt", ".md")
    if not names or len(names) < 0.5 * len(listing.names):
        return None
    return of_texts(listing, names, asked, listing.root)


def of_texts(listing: Listing, names: Sequence[str], asked: Asked, path: Path) -> Draft:
    """Text files by these names, whose dataset's path is `path`."""
    encoding = asked.form.encoding
    notes = []
    if encoding is None:
        guess = guess_encoding(listing.root / names[0])
        encoding = guess.value
        notes.append(f"encoding {encoding}: {guess.reason}")
    lines = read_start(listing.root / names[0], encoding)
    sizes = {name: (listing.root / name).stat().st_size for name in names}
    size = sum(sizes.values())
    blank = sum(not line.strip() for line in lines)
    unit = "paragraph" if blank > len(lines) / 20 else "line"
    if unit == "line" and size / max(1, len(lines)) > 2000:
        unit = "file"
    start = sum(len(line.encode("utf-8", "replace")) for line in lines) or 1
    count = max(1, blank if unit == "paragraph" else len(lines))
    by_file = {
        name: 1 if unit == "file" else math.ceil(count * one / start) for name, one in sizes.items()
    }
    source: Settings = {"source": "text", "unit": unit}
    source |= {"encoding": encoding} if encoding != "utf-8" else {}
    splits = {} if path.is_file() else find_splits(names, notes)
    suffixes = {PurePosixPath(name).suffix for name in names}
    if not path.is_file() and suffixes != {".txt"}:
        source["files"] = f"*{suffixes.pop()}" if len(suffixes) == 1 else "*.[tm][xd]*"
    plan = choose_plan({"text"}, asked.task or "causal_lm", ())
    why = {"line": "no blank lines", "paragraph": "blank lines part them", "file": "long lines"}
    roles = [Role("text", unit, f"a row for each {unit}: {why[unit]}")]
    layout = f"text ({names[0] if len(names) == 1 else f'{len(names)} files'})"
    return Draft(
        *(layout, path, source, plan, roles, sum(by_file.values()), False),
        splits=splits,
        split_rows=rows_of_splits(by_file) if splits else {},
        notes=notes,
    )
