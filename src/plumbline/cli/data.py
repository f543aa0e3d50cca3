"""Look at what became of a dataset's rows: `plumbline data scenes`.

It says how many rows are clean, by split, and how many were rejected for which reason, with some
of them. `--export FOLDER` writes the rejected rows as they came, into a Parquet file with the
reasons beside, and their images and sounds as files. The way back: mend them where they came from
and run again; only what changed is computed anew.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from plumbline import paths
from plumbline.config import compose_yaml
from plumbline.errors import ConfigError, OutputError
from plumbline.files import read_json, staged_folder
from plumbline.params import entries_of
from plumbline.running.checks import nearest
from plumbline.stage import count, each
from plumbline.text import one_line
from plumbline.validation.rejected import ROWS, export_rejected, read_rejections
from plumbline.validation.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a dataset, and what of it."""
    parser.add_argument("name", help="a dataset of params.yaml")
    parser.add_argument("--reason", help="rejected rows with this reason alone")
    parser.add_argument("--rows", type=int, default=5, help="shown of each reason (%(default)s)")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write them; a new folder")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")


def run(options: argparse.Namespace) -> None:
    """Print the account, or write the rows.

    Raises:
        ConfigError: there is no such dataset or reason, or it was not validated yet.
        OutputError: the folder is there already.
        CheckpointError: an output of a stage is damaged.
    """
    known = list(entries_of(compose_yaml(Path.cwd(), "params", []), "datasets"))
    if options.name not in known:
        there = f" (there is {', '.join(known) or 'none'})"
        raise ConfigError(f"{options.name}: no such dataset{nearest(options.name, known)}{there}")
    quarantine = paths.quarantine(options.name)
    if not quarantine.is_dir():
        raise ConfigError(
            f"{quarantine}: not there yet; plumbline run -t validate@{options.name} makes it"
        )
    account: Report = read_json(quarantine / "report.json")
    reasons = list(account["reasons"])
    if options.reason is not None and options.reason not in reasons:
        there = f" (there is {', '.join(reasons) or 'none'})"
        meant = nearest(options.reason, reasons)
        raise ConfigError(f"--reason {options.reason}: no row has it{meant}{there}")
    if options.export:
        _export(options.name, options.reason, options.export)
    elif options.json:
        print(json.dumps(account))
    else:
        _print(options.name, account, [options.reason] if options.reason else reasons, options.rows)


def _export(name: str, reason: str | None, out: Path) -> None:
    if out.exists():
        raise OutputError(f"{out}: there already; name a new folder")
    with staged_folder(out) as partial:
        rows = export_rejected(paths.raw(name), paths.quarantine(name), reason, partial)
    print(f"{count(rows, 'row')} in {out / ROWS}, media beside it")


def _print(name: str, account: Report, reasons: Sequence[str], rows: int) -> None:
    clean = sum(account["rows_clean"].values())
    print(
        f"{name}: {count(account['rows_in'], 'row')}, {clean:,} clean{each(account['rows_clean'])},"
        f" {account['rows_quarantined']:,} rejected"
    )
    for warning in account["warnings"]:
        print(one_line(warning))
    for reason in sorted(reasons, key=lambda reason: -account["reasons"][reason]):
        print(f"\n{reason}: {count(account['reasons'][reason], 'row')}")
        for row in islice(read_rejections(paths.quarantine(name), reason), rows):
            detail = f": {row.detail}" if row.detail else ""
            print(one_line(f"  {row.file}, row {row.row}, {row.sample_id or 'no id'}{detail}"))
