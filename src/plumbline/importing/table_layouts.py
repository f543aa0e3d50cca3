"""Layouts of tables: alone, beside the files that they name, or of conversations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.importing.conversations import of_conversations
from plumbline.importing.drafts import Asked, Draft, files_setting, find_splits
from plumbline.importing.listing import Listing, rows_of_splits
from plumbline.importing.media import MediaColumn, find_media
from plumbline.importing.plans import KEPT, choose_plan
from plumbline.importing.roles import Role, find_dialect, find_roles
from plumbline.importing.tables import READERS, Settings, Table


def tables(listing: Listing, asked: Asked) -> Draft | None:
    """Tables of one form, alone or beside the files that they name."""
    for suffix in (".tar", ".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".psv"):
        names = listing.of(suffix)
        if names:
            break
    else:
        return None
    read = READERS[suffix]
    by_columns: dict[tuple[str, ...], list[str]] = {}
    naming = set[tuple[str, ...]]()
    for name in names if len(names) <= 20 else [names[0]]:
        table = read(listing.root, [name], asked.form)
        columns = tuple(sorted(one.name for one in table.fields))
        by_columns.setdefault(columns, []).append(name)
        if find_media(table.fields, listing):
            naming.add(columns)
    others = list[str]()
    if len(by_columns) > 1 and len(naming) == 1:
        (columns,) = naming
        others, names = (
            [name for name in names if name not in by_columns[columns]],
            by_columns[columns],
        )
    elif len(by_columns) > 1:
        first = " and ".join(found[0] for found in list(by_columns.values())[:3])
        raise ConfigError(
            f"{listing.root.as_posix()}: {len(by_columns)} kinds of {suffix} tables with other "
            f"columns ({first}): import one of them by its own name"
        )
    draft = of_table(read(listing.root, names, asked.form), names, listing, asked)
    if others:
        draft.notes.append(f"not read, with other columns: {', '.join(others)}")
    return draft


def of_table(
    table: Table, names: Sequence[str], listing: Listing, asked: Asked, only: Path | None = None
) -> Draft:
    """What a table is good for.

    Args:
        table: a sample of it.
        names: its files.
        listing: the folder that these, and files that rows name, lie in.
        asked: what the command line says.
        only: the file, where one was named and not its folder.

    Raises:
        ConfigError: a named column is not there, files are not there, or nothing can be learned.
    """
    source: Settings = {"source": table.source, **table.settings}
    notes = list(table.notes)
    if chat := find_dialect(table.fields):
        return of_conversations(table, chat, names, listing, asked, only)
    given = {role: name for role, name in asked.roles.items() if name != "none"}
    _check_names(table, given)
    media, roles = _find_columns(table, listing, asked, given)
    taken = {one.role for one in roles}
    plan = choose_plan(taken, asked.task, [one.name for one in table.fields])
    columns = {
        one.role: one.field for one in roles if one.role in (*plan.needs, *plan.keeps, *KEPT)
    }
    if media is not None and media.role in columns:
        source |= media.settings
        notes += [media.missing] if media.missing else []
    splits = {} if only or "split" in columns else find_splits(names, notes)
    if "group" in columns and plan.needs[0] in ("image", "audio") and "group" not in given:
        # What rows of one medium share is the medium itself; a speaker or a patient is more.
        columns = _without_needless_group(columns, table, media)
    if table.source == "webdataset":
        columns = {ours: name for ours, name in columns.items() if ours != "sample_id"}
    names_files = media is not None and media.settings.get("media") == "path"
    path = only if only and not names_files else listing.root
    source |= files_setting(table.source, names, path, split=bool(splits))
    used = set(columns.values())
    return Draft(
        layout=_describe(table, names, media),
        path=path,
        source=source,
        plan=plan,
        roles=[one for one in roles if columns.get(one.role) == one.field],
        rows=table.rows,
        exact=table.exact,
        columns=columns,
        splits=splits,
        split_rows=rows_of_splits(table.rows_of) if splits else {},
        unused=[one.name for one in table.fields if one.name not in used],
        notes=notes,
    )


def _find_columns(
    table: Table, listing: Listing, asked: Asked, given: Mapping[str, str]
) -> tuple[MediaColumn | None, list[Role]]:
    """The media of a table's rows, and what its other columns are.

    Raises:
        ConfigError: a column names media, and none of them is there.
    """
    without = {name for name in ("image", "audio") if asked.roles.get(name) == "none"}
    wanted = given.get("image") or given.get("audio")
    media = None if len(without) == 2 else find_media(table.fields, listing, wanted)
    if media is not None and media.role in without:
        media = None
    left = [one for one in table.fields if media is None or one.name != media.field]
    if media is None:
        named = [one for one in left if one.kind in ("image name", "audio name")]
        medium = named[0].kind.partition(" ")[0] if named else ""
        if named and medium not in without:
            raise ConfigError(
                f"column {named[0].name} names files such as {named[0].shown()}, and none of them "
                f"lies below {listing.root.as_posix()}: import the folder that holds both, or "
                f"leave them out with --{medium} none"
            )
    others = {role: name for role, name in given.items() if role not in ("image", "audio")}
    dropped = {role: name for role, name in asked.roles.items() if name == "none"}
    roles = find_roles(left, media.role if media else "", {**others, **dropped})
    if media is not None:
        roles.insert(0, Role(media.role, media.field, media.reason))
    return media, roles


def _check_names(table: Table, given: Mapping[str, str]) -> None:
    for role, name in given.items():
        if table.field(name) is None:
            names = ", ".join(one.name for one in table.fields)
            raise ConfigError(f"--{role} {name}: no such column; there is {names}")


def _without_needless_group(
    columns: dict[str, str], table: Table, media: MediaColumn | None
) -> dict[str, str]:
    group, medium = table.field(columns["group"]), table.field(media.field) if media else None
    if group is not None and medium is not None and group.distinct >= medium.distinct:
        return {ours: name for ours, name in columns.items() if ours != "group"}
    return columns


def _describe(table: Table, names: Sequence[str], media: MediaColumn | None) -> str:
    words = {"csv": "table", "jsonl": "JSON Lines", "parquet": "Parquet", "webdataset": "tar shard"}
    what = words[table.source]
    files = names[0] if len(names) == 1 else f"{len(names)} files"
    beside = ""
    if media is not None and media.settings.get("media") == "path":
        folder = media.settings.get("media_folder", "")
        beside = f" beside {'images' if media.role == 'image' else 'sounds'}" + (
            f" in {folder}/" if folder else ""
        )
    return f"{what} ({files}){beside}"
