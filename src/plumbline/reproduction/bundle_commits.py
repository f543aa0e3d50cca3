"""Which commits of a clone a bundle was made by: those whose dvc.lock names the same digests."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from plumbline.errors import CheckpointError, ConfigError, OutputError
from plumbline.export.provenance import NAMES, Name, Provenance, dvc_md5
from plumbline.files import DIGESTS, read_digests, read_json, verify_digests
from plumbline.reproduction.lock import LOCK, StageEntry, parse_lock
from plumbline.reproduction.rerun import call, environment
from plumbline.stage import count
from plumbline.text import shown
from plumbline.waiting import command_timeout_s, too_long

METADATA = "metadata.json"
SETTABLE = "server.json"
"""The one file of a bundle that is for whoever runs it to change."""

LIMIT = 10_000
"""Commits that are looked at."""

SHOWN = 20
"""Commits that are listed."""


@dataclass(frozen=True)
class Commit:
    """A commit, as `git log` has it."""

    id: str
    date: str
    subject: str

    def line(self) -> str:
        """How it is shown."""
        return f"{self.id[:12]} {self.date} {shown(self.subject)}"


@dataclass(frozen=True)
class Match:
    """Commits with one dvc.lock, which names what the bundle names."""

    commits: list[Commit]
    """Newest first."""
    same_bytes: bool
    """Whether the bundle that it records is this one, byte by byte."""


@dataclass(frozen=True)
class Finding:
    """What a clone says of a bundle."""

    provenance: Provenance
    matches: list[Match]
    """Newest first."""
    looked_at: int
    """Commits that have a dvc.lock."""
    last_seen: Mapping[Name, Commit]
    """Ingredient -> the newest commit whose dvc.lock has its digest for the stage."""
    notes: list[str]


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds what `export_model` writes."""
    return (folder / METADATA).is_file() and (folder / DIGESTS).is_file()


def check_files(bundle: Path) -> list[str]:
    """Compare the files of a bundle with its list of digests.

    Returns:
        What was found and is no damage, in words.

    Raises:
        CheckpointError: a file is missing or its bytes have changed.
    """
    again = "copy the whole bundle again"
    names = read_digests(bundle, remedy=again).keys()
    digests = verify_digests(bundle, remedy=again, names=names - {SETTABLE})
    notes: list[str] = []
    try:
        verify_digests(bundle, remedy=again, names={SETTABLE} & names)
    except CheckpointError:
        notes.append(f"{SETTABLE} was changed after the export, as it may be")
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    if others := sorted(there - digests.keys() - {DIGESTS}):
        notes.append(f"{count(len(others), 'file')} that {DIGESTS} does not name ({others[0]})")
    return notes


def read_provenance(bundle: Path) -> Provenance:
    """What a bundle says it was made of.

    Raises:
        CheckpointError: it does not say, or what it says is damaged.
    """
    said = read_json(bundle / METADATA).get("provenance")
    if said is None:
        raise CheckpointError(
            f"{bundle / METADATA}: names no digests of what made it; it is of an older plumbline: "
            "export it again (dvc repro export_model)"
        )
    try:
        return Provenance.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{bundle / METADATA}: provenance.{where}: {first['msg']}; copy the whole bundle again"
        ) from None


def find_commits(clone: Path, bundle: Path, limit: int = LIMIT) -> Finding:
    """Look through the commits of all branches for those that made a bundle.

    Args:
        clone: a folder of the project in a git checkout, with its dvc.lock.
        bundle: the folder of the bundle.
        limit: the most commits to look at, from the newest on.

    Raises:
        CheckpointError: the bundle does not say what it was made of.
        ConfigError: the folder is in no git checkout.
    """
    provenance = read_provenance(bundle)
    # As an output of the stage would have it, whatever lies beside its files by now.
    own = dvc_md5(bundle, {*read_digests(bundle), DIGESTS})
    matches: list[Match] = []
    last_seen: dict[Name, Commit] = {}
    looked_at = 0
    listed = _commits(clone, limit)
    for text, commits in _locks(clone, listed):
        looked_at += len(commits)
        entry = _entry(text, provenance.stage, commits[0])
        found = _found(entry, provenance)
        for name in found:
            last_seen.setdefault(name, commits[0])
        if entry and len(found) == len(NAMES):
            matches.append(Match(commits, own in entry.outs.values()))
    notes = list(_limits(clone, reached=len(listed) >= limit))
    return Finding(provenance, matches, looked_at, last_seen, notes)


def _found(entry: StageEntry | None, provenance: Provenance) -> list[Name]:
    """The ingredients whose digests a stage of a lock has."""
    made_of = provenance.made_of
    if entry is None:
        return []
    return [
        name
        for name in NAMES
        if name in made_of and entry.deps.get(made_of[name].path) == made_of[name].md5
    ]


def _entry(text: str, stage: str, commit: Commit) -> StageEntry | None:
    """What a lock says of a stage; None: nothing, or it is none of DVC's."""
    if stage not in text:
        return None  # parsing takes a hundred times longer
    try:
        return parse_lock(text, f"{LOCK} of {commit.id[:12]}").get(stage)
    except CheckpointError:
        return None  # a merge that was committed with its marks, say


def _commits(clone: Path, limit: int) -> list[Commit]:
    """The commits of all branches, newest first."""
    listing = ["git", "log", "--all", "--date-order", f"--max-count={limit}"]
    try:
        lines = call(clone, *listing, "--format=%H%x09%cs%x09%s").split("\n")
    except OutputError as error:
        raise ConfigError(f"{clone}: no commits to look at ({error}); go to a clone") from None
    return [Commit(*line.split("\t", 2)) for line in lines if line]


def _locks(clone: Path, commits: list[Commit]) -> Iterator[tuple[str, list[Commit]]]:
    """Text of each distinct dvc.lock with the commits that have it, newest first."""
    prefix = call(clone, "git", "rev-parse", "--show-prefix").strip()
    # Most commits leave the lock as it was: each text is read once.
    by_lock: dict[str, list[Commit]] = {}
    for commit, lock in zip(commits, _objects(clone, commits, f"{prefix}{LOCK}"), strict=True):
        if lock is not None:
            by_lock.setdefault(lock, []).append(commit)
    for lock, having in by_lock.items():
        yield call(clone, "git", "cat-file", "blob", lock), having


def _objects(clone: Path, commits: list[Commit], path: str) -> Iterator[str | None]:
    """The object of a path in each commit; None where it has none."""
    command = ["git", "cat-file", "--batch-check=%(objectname)"]
    asked = "".join(f"{commit.id}:{path}\n" for commit in commits)
    limit = command_timeout_s()
    try:
        done = subprocess.run(
            command,
            cwd=clone,
            env=environment(),
            input=asked,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise OutputError(too_long(command, limit)) from None
    for line in done.stdout.splitlines():
        yield None if line.endswith(" missing") else line


def _limits(clone: Path, *, reached: bool) -> Iterator[str]:
    """Why a commit that made the bundle might not have been seen."""
    if call(clone, "git", "rev-parse", "--is-shallow-repository").strip() == "true":
        yield "this clone is shallow: git fetch --unshallow brings the other commits"
    if reached:
        yield "there are older commits: --limit looks at more"


def report_lines(finding: Finding) -> Iterator[str]:
    """What is said of a finding, line by line."""
    provenance = finding.provenance
    yield f"made by {provenance.stage} of"
    for name in NAMES:
        made = provenance.made_of.get(name)
        said = f"{made.md5}  {shown(made.path)}" if made else "unknown: run by hand, not by dvc"
        yield f"  {name:<8}  {said}"
    if finding.matches:
        yield from _matching(finding.matches)
        return
    yield f"no commit of {finding.looked_at} with a {LOCK} matches:"
    yield from (f"  {line}" for line in _missing(finding))
    yield from finding.notes


def _matching(matches: list[Match]) -> Iterator[str]:
    commits = [(commit, match.same_bytes) for match in matches for commit in match.commits]
    yield f"the same digests in {LOCK} of {count(len(commits), 'commit')}, newest first:"
    for commit, same in commits[:SHOWN]:
        yield f"  {commit.line()}{'' if same else ' (the bundle that it records has other bytes)'}"
    if len(commits) > SHOWN:
        yield f"  and {len(commits) - SHOWN} more"


def _missing(finding: Finding) -> Iterator[str]:
    """Why none matches, ingredient by ingredient."""
    made_of = finding.provenance.made_of
    for name in NAMES:
        if name not in made_of:
            yield f"{name}: the bundle does not name it"
        elif commit := finding.last_seen.get(name):
            yield f"{name}: last in {commit.line()}"
        else:
            yield f"{name}: in none"
    if len(finding.last_seen) == len(NAMES):
        yield "each is in some, but all are together in none"
