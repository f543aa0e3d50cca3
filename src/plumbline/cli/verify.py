"""Prove that the commit can be reproduced.

Clones the committed HEAD, runs the whole pipeline in the clone from nothing and compares every
stage with the committed dvc.lock and metrics. `--runs 2` makes two clones and compares them with
each other, which needs no committed lock and so works for any preset. The certificate is printed
and kept in .plumbline/certificates/. Exit 1: a stage is not as good as it must be on this machine.

With the folder of a bundle nothing is run: its files are compared with their digests, and the
commits of this clone are named whose dvc.lock has the digests of the data, settings, code and
model that it was made of. Exit 1: a file is damaged, or no commit matches.
"""

import argparse
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.errors import ConfigError
from plumbline.files import STATE_DIR, atomic_write
from plumbline.reproduction.bundle_commits import (
    LIMIT,
    check_files,
    find_commits,
    is_bundle,
    report_lines,
)
from plumbline.reproduction.lock import LOCK
from plumbline.reproduction.machine import RECORD
from plumbline.reproduction.rerun import committed_head
from plumbline.reproduction.verification import Request, record_machine, verify

CERTIFICATES = STATE_DIR / "certificates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to compare with what, and how strictly."""
    parser.add_argument("bundle", nargs="?", type=Path, help="find the commits that made it")
    parser.add_argument("--limit", type=int, help=f"commits to look at for it (default {LIMIT})")
    parser.add_argument("--preset", help="a file of conf/experiment in place of the default")
    parser.add_argument("--runs", type=int, choices=(1, 2), help="2: compare two clean clones")
    parser.add_argument("--against", type=Path, help="another checkout, for its lock and metrics")
    parser.add_argument("--targets", nargs="+", default=(), help="these stages, what they need")
    parser.add_argument(
        "--tolerance",
        choices=("auto", "exact", "metrics"),
        default="auto",
        help="exact: only equal bytes pass; metrics: figures within verify.yaml pass; auto: exact "
        "on the type of machine that made the record, else metrics",
    )
    parser.add_argument("--into", type=Path, help="an empty folder to make and keep the clones in")
    parser.add_argument(
        "--record", action="store_true", help=f"only write {RECORD}: this machine made {LOCK}"
    )


def read_request(options: dict[str, Any]) -> Request:
    """Make a request of the command line's options.

    Raises:
        ConfigError: they contradict each other.
    """
    needs_two = options["preset"] is not None and options["against"] is None
    runs = options["runs"] or (2 if needs_two else 1)
    request = Request(**(options | {"runs": runs, "targets": tuple(options["targets"])}))
    if request.runs == 2 and request.against:
        raise ConfigError("--against and --runs 2: a rerun is compared with one of them")
    if request.runs == 1 and needs_two:
        raise ConfigError(
            f"--preset {request.preset} --runs 1: the committed {LOCK} records the default "
            "settings, so there is nothing to compare with; use --runs 2 or --against FOLDER"
        )
    if request.into and request.into.exists() and any(request.into.iterdir()):
        raise ConfigError(f"--into {request.into}: not empty; name a new folder")
    return request


def run(options: argparse.Namespace) -> None:
    """Verify the commit, or record the machine.

    Raises:
        SystemExit: a stage is not as good as it must be on this machine.
    """
    # As Ctrl-C does: what runs in a clone must not outlive the command that started it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root, asked = Path.cwd(), vars(options)
    bundle, limit = asked.pop("bundle"), asked.pop("limit")
    if bundle is not None or limit is not None:
        _verify_bundle(root, bundle, limit, asked)
        return
    if asked.pop("record"):
        record_machine(root)
        print(f"{RECORD} written: commit it together with {LOCK}")
        return
    request = read_request(asked)
    commit = committed_head(root)
    began = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = root / CERTIFICATES / f"{began}-{request.preset or 'default'}-{commit[:12]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    certificate = verify(root, commit, request, file.with_suffix(".log"))
    atomic_write(file, certificate.json())
    atomic_write(file.with_suffix(".md"), certificate.markdown())
    print(certificate.markdown(), end="")
    print(f"\nCertificate: {file.relative_to(root)}; .md and .log beside it")
    if not certificate.passed:
        raise SystemExit(1)


def _verify_bundle(
    root: Path, bundle: Path | None, limit: int | None, others: Mapping[str, object]
) -> None:
    if bundle is None:
        raise ConfigError("--limit: is for a bundle; name its folder")
    if given := [name for name, value in others.items() if value and value != "auto"]:
        raise ConfigError(f"--{given[0]} and {bundle}: a bundle is compared with commits alone")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: expected a number from 1 on")
    if not is_bundle(bundle):
        raise ConfigError(f"{bundle}: no bundle (it has no metadata.json and digests.json)")
    notes = check_files(bundle)
    print(f"{bundle}: every file is as it was exported")
    finding = find_commits(root, bundle, limit or LIMIT)
    print("\n".join([*(f"note: {note}" for note in notes), *report_lines(finding)]))
    if not finding.matches:
        raise SystemExit(1)
