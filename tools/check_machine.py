"""Refuse a machine on which the set-up could not end well, in one line. Runs on any Python 3."""

import re
import shutil
import sys
from pathlib import Path

NEEDED_GB = 10
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def supported_minors():
    """First and last minor version of Python 3 that pyproject.toml admits."""
    text = PYPROJECT.read_text(encoding="utf-8")  # tomllib came with 3.11
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', text, re.MULTILINE)
    return int(found.group(1)), int(found.group(2)) - 1


def main():
    """Check Python and disk; the folder to install into is the only argument."""
    first, last = supported_minors()
    if not (3, first) <= sys.version_info[:2] <= (3, last):
        sys.exit(
            "error: Python %d.%d found, 3.%d to 3.%d needed; install it and run "
            "make PYTHON=python3.%d ..." % (*sys.version_info[:2], first, last, first)
        )
    free_gb = shutil.disk_usage(sys.argv[1]).free / 1e9
    if free_gb < NEEDED_GB:
        sys.exit(
            "error: %.1f GB free in %s, the environment and the pipeline need %d GB"
            % (free_gb, sys.argv[1], NEEDED_GB)
        )


if __name__ == "__main__":
    main()
