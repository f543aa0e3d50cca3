"""Which column holds the media of a table's rows, and where the files lie that it names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from plumbline.importing.fields import Field
from plumbline.importing.listing import Listing

MAX_FOLDERS = 200
"""Folders that names are looked for in."""
_LOOK = 200
_FEWEST = 0.5
"""Share of the names that must be files for a column to name files."""


@dataclass(frozen=True)
class MediaColumn:
    """The column of a table that holds or names its media."""

    role: str
    """`image` or `audio`."""
    field: str
    settings: dict[str, str]
    """Of the source: how it stands for them."""
    reason: str
    missing: str = ""
    """Names of the sample that are no files, in words; empty where all are."""


def find_media(
    fields: Sequence[Field], listing: Listing, given: str | None = None
) -> MediaColumn | None:
    """The first column that holds media, else that names files there are most of.

    Args:
        fields: of the table.
        listing: the dataset's folder.
        given: the field that the command line says it is.
    """
    fields = [one for one in fields if given in (None, one.name)]
    for field in fields:
        if found := _held(field):
            return found
    named = [found for field in fields for found in _named(field, listing, given is not None)]
    best = max(named, key=lambda one: one[0], default=None)
    return best[1] if best and best[0] >= (0 if given else _FEWEST) else None


def _held(field: Field) -> MediaColumn | None:
    role, _, form = field.kind.partition(" ")
    if role not in ("image", "audio") or form == "name":
        return None
    if form == "base64":
        reason = "its cells are base64" + (" of URLs" if str(field.there[0])[:5] == "data:" else "")
        return MediaColumn(role, field.name, {"media": "base64"}, reason)
    reason = f"its cells are encoded {'images' if role == 'image' else 'sounds'}"
    return MediaColumn(role, field.name, {}, reason)


def _named(field: Field, listing: Listing, asked: bool) -> Iterator[tuple[float, MediaColumn]]:
    """How much of the names are files, for each way of reading them that there is."""
    if field.kind not in ("image name", "audio name", "text", "integer") or field.words > 3:
        return
    names = [str(value).replace("\\", "/") for value in field.there[:_LOOK]]
    for role, files in listing.media.items():
        there = set(files)
        endings = sorted({PurePosixPath(name).suffix for name in files})
        for folder in _folders(files):
            for ending in ("", *endings):
                found = [_join(listing.root, folder, name + ending) in there for name in names]
                share = sum(found) / max(1, len(names))
                if share and (ending == "" or share >= _FEWEST):
                    yield share, _column(role, field, folder, ending, names, found)
    if field.kind.endswith(" name") and asked:
        role = field.kind.partition(" ")[0]
        yield 0.0, MediaColumn(role, field.name, {"media": "path"}, "its cells are names of files")


def _column(
    role: str, field: Field, folder: str, ending: str, names: Sequence[str], found: Sequence[bool]
) -> MediaColumn:
    settings = {"media": "path"}
    settings |= {"media_folder": folder} if folder else {}
    settings |= {"media_ending": ending} if ending else {}
    behind = f", with {ending} behind them" if ending else ""
    where = f"in {folder}/" if folder else "there"
    lost = [name for name, is_there in zip(names, found, strict=True) if not is_there]
    missing = f"{len(lost)} of {len(names)} names are no files, such as {lost[0]}" if lost else ""
    reason = f"{sum(found)} of {len(names)} names are files {where}{behind}"
    return MediaColumn(role, field.name, settings, reason, missing)


def _folders(files: Sequence[str]) -> list[str]:
    """Folders that names may begin in: the dataset's own, then those of media and above them."""
    found = {""}
    for name in files:
        found.update(str(one) for one in PurePosixPath(name).parents if str(one) != ".")
        if len(found) > MAX_FOLDERS:
            break
    return sorted(found, key=lambda one: (one.count("/"), one))


def _join(root: Path, folder: str, name: str) -> str:
    """The name below the dataset's path; an absolute one counts where it lies there."""
    if name.startswith("/"):
        base = root.absolute().as_posix().rstrip("/") + "/"
        return name.removeprefix(base) if not folder and name.startswith(base) else ""
    return (PurePosixPath(folder) / name).as_posix()
