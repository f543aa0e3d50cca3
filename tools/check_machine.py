"""Refuse a machine on which the set-up could not end well, in one line. Runs on any Python 3."""

import shutil
import sys

NEEDED_GB = 10


def main():
    """Check Python and disk; the folder to install into is the only argument."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        sys.exit(
            "error: Python %d.%d found, 3.11 to 3.13 needed; install it and run "
            "make PYTHON=python3.11 ..." % sys.version_info[:2]
        )
    free_gb = shutil.disk_usage(sys.argv[1]).free / 1e9
    if free_gb < NEEDED_GB:
        sys.exit(
            "error: %.1f GB free in %s, the environment and the pipeline need %d GB"
            % (free_gb, sys.argv[1], NEEDED_GB)
        )


if __name__ == "__main__":
    main()
