"""Layouts of conversations, alone or with the images that they show."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from plumbline.data.turns import BadTurns
from plumbline.importing.drafts import Asked, Draft, files_setting, find_splits
from plumbline.importing.fields import Field
from plumbline.importing.listing import Listing, rows_of_splits
from plumbline.importing.media import MediaColumn, find_media
from plumbline.importing.plans import choose_plan
from plumbline.importing.roles import Role, find_dialect, find_roles
from plumbline.importing.tables import Settings, Table
from plumbline.sources.chat import ChatConfig

SHOWN = "images"


def of_conversations(
    table: Table,
    chat: tuple[str, str],
    names: Sequence[str],
    listing: Listing,
    asked: Asked,
    only: Path | None,
) -> Draft:
    """What a table of conversations is good for.

    Args:
        table: a sample of it.
        chat: its dialect, and why it is that.
        names: its files.
        listing: the folder that these, and images that rows name, lie in.
        asked: what the command line says.
        only: the file, where one was named and not its folder.

    Raises:
        ConfigError: nothing can be learned of them that is asked for.
    """
    dialect, why = chat
    notes = list(table.notes)
    shown = _shown_images(table, dialect)
    media = find_media([shown], listing) if shown.there else None
    if asked.task == "causal_lm" or (media and "media_ending" in media.settings):
        media = None
    there = {"turns", SHOWN} if media and media.role == "image" else {"turns"}
    plan = choose_plan(there, asked.task, [one.name for one in table.fields])
    settings: Settings = {"dialect": dialect, "images": SHOWN in there}
    if shown.there and media is None:
        settings["images"] = "ignored"
        notes.append(_why_ignored(shown, listing, asked))
    ids = next((one for one in find_roles(table.fields, "", {}) if one.role == "sample_id"), None)
    splits = {} if only else find_splits(names, notes)
    names_files = media is not None and media.settings.get("media") == "path"
    path = only if only and not names_files else listing.root
    source: Settings = {"source": table.source, **table.settings, "chat": settings}
    source |= files_setting(table.source, names, path, split=bool(splits))
    roles = [Role("turns", dialect, why), *([ids] if ids else [])]
    if media is not None:
        source |= media.settings
        notes += [media.missing] if media.missing else []
        roles.append(Role(SHOWN, dialect, f"turns show them, and {media.reason}"))
    return Draft(
        _describe(dialect, names, media),
        *(path, source, plan, roles, table.rows, table.exact),
        *({"sample_id": ids.field} if ids else {}, splits),
        split_rows=rows_of_splits(table.rows_of) if splits else {},
        notes=notes,
    )


def names_images(table: Table) -> bool:
    """Whether it holds conversations that name files as the images that they show."""
    chat = find_dialect(table.fields)
    return chat is not None and "name" in _shown_images(table, chat[0]).kind


def _shown_images(table: Table, dialect: str) -> Field:
    """What the sampled rows hold or name as the images that they show, as a column of them."""
    chat, found = ChatConfig(dialect=dialect), list[object]()
    for row in range(max((len(field.values) for field in table.fields), default=0)):
        with suppress(BadTurns):  # what is wrong with a row, the trial says
            found += chat.shown_images({field.name: field.values[row] for field in table.fields})
    return Field(SHOWN, found)


def _why_ignored(shown: Field, listing: Listing, asked: Asked) -> str:
    said = f"images that turns show ({shown.shown()}): conversations are read without them"
    if asked.task == "causal_lm":
        return f"{said}, as a model of texts alone is asked for"
    return f"{said}, since none of them lies below {listing.root.name}/ as it is named"


def _describe(dialect: str, names: Sequence[str], media: MediaColumn | None) -> str:
    files = names[0] if len(names) == 1 else len(names)
    beside = ""
    if media is not None and media.settings.get("media") == "path":
        folder = media.settings.get("media_folder", "")
        beside = " beside images" + (f" in {folder}/" if folder else "")
    return f"conversations, dialect {dialect} ({files}){beside}"
