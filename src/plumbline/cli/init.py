"""Begin a project: DAG, settings and scripts, with the core from the installed package.

The folder may hold files of your own. It becomes a repository of Git where it is in none, with the
files of the project as its first commit; yours are left for you to add.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.project.files import LOCK, begin, read_lock
from plumbline.waiting import run_command

NOBODY = ("-c", "user.name=plumbline", "-c", "user.email=plumbline@localhost")
"""Whose the first commit is where Git knows nobody: DVC makes experiments of commits alone."""
COMPOSED = ("params.yaml", "conf/versions.yaml", "schema")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folder."""
    parser.add_argument("folder", type=Path, help="of the project, such as my-project")


def run(options: argparse.Namespace) -> None:
    """Write the project, and say what comes next."""
    from plumbline.schema.documents import write_schemas

    folder: Path = options.folder
    begin(folder)
    write_schemas(folder)
    inside = run_command(["git", "rev-parse", "--git-dir"], cwd=folder).returncode == 0
    if not inside:
        _run(["git", "init", "--quiet"], folder)
    _run([sys.executable, "-m", "stages.check_params", "--write"], folder)
    print(f"{folder}: a project; next:")
    if folder.resolve() != Path.cwd():
        print(f"  cd {folder}")
    if inside:
        print("  git add . && git commit -m 'Begin'")
    else:
        _commit(folder)
    print("  plumbline import FOLDER    # settings for data of your own")
    print("  plumbline repro            # or the example, from drawings to a bundle")


def _commit(folder: Path) -> None:
    """Put what was written under Git, and nothing that lay there before."""
    _, files = read_lock(folder)
    _run(["git", "add", "--force", "--", *files, LOCK, *COMPOSED], folder)
    commit = ["commit", "--quiet", "--message", "Begin a project of plumbline"]
    if run_command(["git", *commit], cwd=folder).returncode:
        _run(["git", *NOBODY, *commit], folder)


def _run(command: Sequence[str], folder: Path) -> None:
    done = run_command(command, cwd=folder)
    if done.returncode:
        raise ConfigError(f"{' '.join(command[:4])}: {done.stderr.strip()}")
