"""Which layout a folder or a file has: the first of a table that fits is taken."""

from collections.abc import Callable
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.importing.conversations import names_images
from plumbline.importing.drafts import Asked, Draft
from plumbline.importing.folder_layouts import class_folders, of_texts, texts
from plumbline.importing.listing import Listing, list_folder
from plumbline.importing.table_layouts import of_table, tables
from plumbline.importing.tables import READERS

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz", ".7z", ".rar")
SHEETS = (".xlsx", ".xls", ".ods")

LAYOUTS: tuple[Callable[[Listing, Asked], Draft | None], ...] = (tables, class_folders, texts)
"""Of folders, in the order in which they are tried."""


def recognise(path: Path, asked: Asked) -> Draft:
    """Recognise what lies at a path.

    Raises:
        ConfigError: nothing that can be learned from, or not without a word of the user's.
        DataError: a file cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"{path.as_posix()}: no such file or folder")
    if path.is_file():
        return _of_file(path, asked)
    listing = list_folder(path)
    for layout in LAYOUTS:
        if (draft := layout(listing, asked)) is not None:
            if not listing.whole:
                draft.notes.append(f"of more files, the first {len(listing.names)} were looked at")
            return draft
    raise ConfigError(_unknown(path, listing))


def _unknown(path: Path, listing: Listing) -> str:
    packed = listing.of(*PACKED)
    if packed:
        return f"{path.as_posix()}: {packed[0]} is packed; unpack it, and import what comes of it"
    if sheets := listing.of(*SHEETS):
        return f"{path.as_posix()}: {sheets[0]} is a spreadsheet; save it as CSV"
    if documents := listing.of(".json"):
        return (
            f"{path.as_posix()}: {documents[0]} is one JSON document, and JSON Lines are read: "
            "jq -c '.[]' makes them of a list"
        )
    return (
        f"{path.as_posix()}: no layout that is known ({listing.described()}): folders named for "
        "labels, a table (CSV, JSON Lines, Parquet) with or without files beside it, tar shards, "
        "or text files"
    )


def _of_file(path: Path, asked: Asked) -> Draft:
    suffix = path.suffix.lower()
    alone = Listing(path.parent, [path.name], whole=True)
    if suffix in (".txt", ".md"):
        return of_texts(alone, [path.name], asked, path)
    if suffix not in READERS:
        raise ConfigError(_unknown(path, alone))
    table = READERS[suffix](path.parent, [path.name], asked.form)
    names_files = any(one.kind in ("image name", "audio name") for one in table.fields)
    names_files = names_files or bool({"image", "audio"} & set(asked.roles)) or names_images(table)
    listing = list_folder(path.parent) if names_files else alone
    return of_table(table, [path.name], listing, asked, only=path)
