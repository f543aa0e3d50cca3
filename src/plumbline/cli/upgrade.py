"""Show what the installed version of plumbline changes in a project's files; --write takes it.

Files that you have not changed are replaced; those changed on both sides stay as they are, and
their difference is shown, to be put in by hand. Settings that are gone are told by the check that
follows; docs/migration.md says what became of them.
"""

import argparse
from pathlib import Path

from plumbline.plugins import load_plugins
from plumbline.project.files import Change, changes, read_lock, upgrade
from plumbline.stages import check_params
from plumbline.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take whether to write."""
    parser.add_argument("--write", action="store_true", help="take it, do not only show it")


def run(options: argparse.Namespace) -> None:
    """Show or take what is new."""
    from plumbline.schema.documents import write_schemas

    project = Path.cwd()
    version, _ = read_lock(project)
    if not options.write:
        found = list(changes(project))
        _show(found)
        what = "--write takes what you have not changed" if found else "nothing to change"
        print(f"files of plumbline {version}, {__version__} is installed: {what}")
        return
    _show(left := upgrade(project))
    print(f"files of plumbline {__version__}; left to you: {len(left)}")
    load_plugins(project / "plugins")  # what they register are valid settings
    write_schemas(project)
    check_params.main(["--write"])


def _show(found: list[Change]) -> None:
    for change in found:
        print(f"{change.path}: {change.state}")
        print(change.diff())
