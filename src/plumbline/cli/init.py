"""Begin a project: DAG, settings and scripts, with the core from the installed package.

The folder may hold files of your own. It becomes a repository of Git where it is in none.
"""

import argparse
import sys
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.project.files import begin
from plumbline.waiting import run_command


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
    commands = [] if inside else [["git", "init", "--quiet"]]
    for command in (*commands, [sys.executable, "-m", "stages.check_params", "--write"]):
        done = run_command(command, cwd=folder)
        if done.returncode:
            raise ConfigError(f"{' '.join(command)}: {done.stderr.strip()}")
    print(f"{folder}: a project; next:\n  cd {folder}\n  git add . && git commit -m 'Begin'")
    print("  plumbline repro")
