"""Look at a folder or a file of data, and write the settings that train a model on it.

It recognises the layout, tells what each column is and why, shows the first rows and what
validation would reject, proposes a model for the data and this machine, and writes dataset, task
and experiment into conf/. What it guessed wrong is an option. Nothing is copied unless asked.
"""

import argparse
import shutil
from pathlib import Path

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.importing.drafts import Asked
from plumbline.importing.importer import Import, check_written, look, name_of
from plumbline.importing.page import write_page
from plumbline.importing.plans import KINDS
from plumbline.importing.shown import describe
from plumbline.importing.tables import Form, Settings
from plumbline.importing.written import write
from plumbline.objects.listing import list_objects
from plumbline.objects.mirror import mirror, said_of
from plumbline.objects.settings import ObjectsConfig, ObjectsEntry
from plumbline.objects.stores import STORES, scheme_of

ROLES = {
    "image": "images, or names of their files",
    "audio": "sounds, or names of their files",
    "features": "lists of numbers",
    "caption": "what a medium shows or says",
    "label": "classes",
    "value": "numbers to predict",
    "question": "questions",
    "answer": "answers",
    "text": "texts",
    "source": "texts to translate from",
    "target": "texts to translate to",
    "split": "train, val or test",
    "group": "what must not part between splits, such as a speaker",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the path and what is guessed wrong."""
    parser.add_argument("path", help="a folder, a file, or a URL such as s3://bucket/prefix")
    parser.add_argument("--name", help="of dataset, task and experiment; default: the folder's")
    parser.add_argument("--task", choices=KINDS, help="the kind of work; default: what fits")
    columns = parser.add_argument_group("columns", "a name in the files, or none")
    for role, what in ROLES.items():
        columns.add_argument(f"--{role}", metavar="COLUMN", help=f"which column has {what}")
    columns.add_argument("--id", metavar="COLUMN", dest="sample_id", help="which has ids of rows")
    form = parser.add_argument_group("form of tables and texts")
    form.add_argument("--encoding", help="such as utf-8, latin-1, cp1252")
    form.add_argument("--delimiter", help="between cells; tab for a tabulator")
    form.add_argument("--quotes", choices=("yes", "no"), help="whether cells stand in quotes")
    form.add_argument("--header", help="names of the columns where no row has them: file,label")
    parser.add_argument(
        "--max-dropped", type=float, metavar="SHARE", help="rows that may be faulty; default 0.1"
    )
    parser.add_argument(
        "--anonymous", action="store_true", help="ask an object store without credentials"
    )
    parser.add_argument("--copy", action="store_true", help="copy the data to data/NAME first")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    parser.add_argument("--dry-run", action="store_true", help="look, and write nothing")


def run(options: argparse.Namespace) -> None:
    """Look, say what was found, and write.

    Raises:
        ConfigError: the working folder is no project, nothing can be learned from the data, or
            files of the name are there with other content.
        DataError: a file cannot be read, or validation would fail.
    """
    project = Path.cwd()
    if not (project / "conf" / "config.yaml").is_file():
        raise ConfigError(f"{project}: no conf/config.yaml here; plumbline init makes a project")
    if scheme_of(options.path) in STORES:
        _import_objects(options, project)
        return
    path = Path(options.path)
    name = options.name or name_of(path)
    if options.copy and not options.dry_run:
        path = _copy(path, project / "data" / name, project)
    _import(path, name, options, project)


def _import_objects(options: argparse.Namespace, project: Path) -> None:
    """Import what lies below a URL, by its copy on this machine."""
    if options.copy:
        raise ConfigError(f"--copy: of {options.path} a copy is kept below .plumbline in any case")
    values = {"url": options.path, "anonymous": options.anonymous}
    stored = check_config(ObjectsEntry, {"objects": "path"}, {"path": values}).objects
    listing = list_objects(stored)
    path = mirror(listing, "run the import again")
    name = options.name or name_of(path if listing.single else Path(stored.url))
    with said_of(stored.url, path):
        _import(path, name, options, project, stored)


def _import(
    path: Path,
    name: str,
    options: argparse.Namespace,
    project: Path,
    stored: ObjectsConfig | None = None,
) -> None:
    rules: Settings = {}
    if options.max_dropped is not None:
        rules["max_dropped_share"] = options.max_dropped
    found = look(path, name, _asked(options), project, rules, stored)
    described = "\n".join(describe(found))
    print(described.replace(path.as_posix(), stored.url) if stored else described)
    if {"image", "audio"} & set(found.trial.first[0]):
        page = project / ".plumbline" / "import" / f"{name}.html"
        write_page(found, page)
        print(f"\npictures and sounds of these rows: {page.relative_to(project)}")
    if found.proposal is None:
        raise ConfigError(
            f"{path.as_posix()}: {found.trial.problem}; nothing is written: mend the data, or say "
            "what was guessed wrong (plumbline import --help)"
        )
    print()
    _write(found, project, options)


def _write(found: Import, project: Path, options: argparse.Namespace) -> None:
    names = ", ".join(found.files)
    if options.dry_run:
        print(f"would write {names}")
        return
    changed = write(project, found.files, force=options.force)
    check_written(project, found.name)
    print(f"wrote {names}" if changed else f"unchanged: {names}")
    print(f"train: plumbline run {found.name}")


def _asked(options: argparse.Namespace) -> Asked:
    roles = {
        role: value
        for role in (*ROLES, "sample_id")
        if (value := getattr(options, role)) is not None
    }
    named = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
    delimiter = named.get(options.delimiter, options.delimiter)
    header = tuple(options.header.split(",")) if options.header else None
    quotes = None if options.quotes is None else options.quotes == "yes"
    return Asked(roles, Form(options.encoding, delimiter, quotes, header), options.task)


def _copy(path: Path, to: Path, project: Path) -> Path:
    """Copy a dataset into the project, whole or not at all.

    Raises:
        ConfigError: the place is taken, or the data cannot be read.
    """
    if to.exists():
        raise ConfigError(f"{to}: there already; import it from there, or choose another --name")
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        if path.is_dir():
            shutil.copytree(path, part)
        else:
            part.mkdir(parents=True)
            shutil.copy2(path, part / path.name)
        part.rename(to)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ConfigError(f"{path.as_posix()}: cannot be copied to {to} ({error})") from None
    return to if path.is_dir() else to / path.name
