"""List what caches, old training states and run records take; remove it with --yes."""

import argparse
import shutil
from pathlib import Path

from plumbline.gc import collect, folder_bytes, records_ahead, removable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to remove."""
    parser.add_argument("--yes", action="store_true", help="remove, do not only list")
    parser.add_argument("--experiments", action="store_true", help="remove all experiments too")


def run(options: argparse.Namespace) -> None:
    """List what could go; remove it with --yes."""
    total = 0
    for folder in removable(Path()):
        size = folder_bytes(folder)
        total += size
        print(f"{size / 1e6:10.1f} MB  {folder}")
        if options.yes:
            shutil.rmtree(folder)
    done = "removed" if options.yes else "in all; plumbline gc --yes removes it"
    print(f"{total / 1e6:10.1f} MB  {done}")
    if waiting := records_ahead(Path()):
        print(
            f"kept: {len(waiting)} run records that a tracker has not had; "
            "python -m plumbline.tracking.forwarder --once --tracker NAME copies them"
        )
    if not options.yes:
        print("and what no branch, tag or experiment uses of DVC's cache; --yes --experiments also")
        print("removes all experiments")
    elif code := collect(Path(), experiments=options.experiments):
        raise SystemExit(code)
