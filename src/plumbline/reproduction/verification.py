"""From a request to a certificate: make the clones, run them, compare."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import ConfigError
from plumbline.files import atomic_write, sha256_file
from plumbline.params import read_params
from plumbline.reproduction.certificate import Certificate
from plumbline.reproduction.compare import Outcome, Side, StageResult, Status, compare
from plumbline.reproduction.lock import LOCK, read_lock, with_upstream
from plumbline.reproduction.machine import (
    RECORD,
    Machine,
    describe_machine,
    dump_record,
    read_record,
)
from plumbline.reproduction.rerun import (
    cache_folder,
    make_clone,
    open_side,
    read_stages,
    reproduce,
    select_preset,
    uncommitted_changes,
)
from plumbline.reproduction.tolerance import read_tolerances
from plumbline.scratch import scratch_folder


@dataclass(frozen=True)
class Request:
    """What is to be verified, and how."""

    preset: str | None = None
    """A file of conf/experiment; None: the default settings."""
    runs: int = 1
    """2: two clean clones are compared with each other, and no record is needed."""
    against: Path | None = None
    """Another checkout, whose dvc.lock and metrics are the record; None: the commit's."""
    targets: tuple[str, ...] = ()
    """Stages as for `dvc repro`; none: all."""
    tolerance: str = "auto"
    """exact, metrics, or auto: exact where the record's machine is of this machine's type."""
    into: Path | None = None
    """A folder for the clones, which stay there; None: they are removed."""


@dataclass(frozen=True)
class _Reference:
    """What a rerun is compared with."""

    name: str
    machine: Machine | None
    """None: unknown."""
    note: str = ""


@dataclass(frozen=True)
class _Finding:
    stages: list[StageResult]
    machine: Machine
    reference: _Reference


def verify(root: Path, commit: str, request: Request, log: Path) -> Certificate:
    """Run the pipeline of a commit in clean clones and compare.

    Args:
        root: the checkout that has the commit.
        commit: its full hash.
        request: what is to be compared.
        log: gets what the runs say.

    Raises:
        ConfigError: the preset, the targets or verify.yaml are wrong.
        CheckpointError: there is no record to compare with.
        OutputError: no clone can be made.
    """
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    notes = _describe_changes(root)
    with _place_for_clones(request.into) as place:
        job = _Job(root, commit, request, place, log)
        finding = job.compare_runs() if request.runs == 2 else job.compare_with_record()
    reference = finding.reference
    exact, why = _strictness(request, finding.machine, reference.machine)
    return Certificate(
        commit=commit,
        date=began,
        preset=request.preset,
        compared_with=reference.name,
        exact=exact,
        why=why,
        stages=finding.stages,
        machine=finding.machine,
        recorded_machine=reference.machine,
        notes=[*notes, *filter(None, [reference.note])],
    )


def threads_of(folder: Path) -> int:
    """Compute threads that the stages of a folder use.

    Raises:
        ConfigError: params.yaml does not say.
    """
    threads = read_params(folder).get("threads")
    if not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"params.yaml: threads = {threads!r}: not a number of threads")
    return threads


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _describe_changes(root: Path) -> list[str]:
    changed = uncommitted_changes(root)
    if not changed:
        return []
    shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
    note = f"the commit is verified, without the uncommitted changes here ({shown})"
    _show(f"note: {note}")
    return [note]


@contextmanager
def _place_for_clones(into: Path | None) -> Iterator[Path]:
    if into is not None:
        yield into.absolute()
        return
    with scratch_folder() as folder:
        yield folder


@dataclass(frozen=True)
class _Job:
    root: Path
    commit: str
    request: Request
    place: Path
    log: Path

    def compare_with_record(self) -> _Finding:
        clone = self._clone("run-1")
        machine = describe_machine(threads_of(clone))
        side, reference = self._open_record(clone)
        outcome = reproduce(clone, self.request.targets, self.log, _show)
        return _Finding(self._compare(side, clone, outcome), machine, reference)

    def compare_runs(self) -> _Finding:
        first = self._clone("run-1")
        machine = describe_machine(threads_of(first))
        reference = _Reference("another clean clone, run just before on this machine", machine)
        log = self.log.with_suffix(".first.log")
        outcome = reproduce(first, self.request.targets, log, _show)
        if outcome.failed is not None:
            return _Finding(_without_reference(outcome), machine, reference)
        side = open_side(first, read_stages(first), lambda: _own_cache(first))
        second = self._clone("run-2")
        outcome = reproduce(second, self.request.targets, self.log, _show)
        return _Finding(self._compare(side, second, outcome), machine, reference)

    def _clone(self, name: str) -> Path:
        clone = self.place / name
        make_clone(self.root, self.commit, clone)
        if self.request.preset:
            select_preset(clone, self.request.preset)
        settings = self.request.preset or "default"
        _show(f"{self.commit[:12]} in {clone}, {settings} settings:")
        return clone

    def _open_record(self, clone: Path) -> tuple[Side, _Reference]:
        """The record of the commit, as in its clone, or that of another checkout."""
        against = self.request.against
        folder = against.absolute() if against else clone
        stages = read_lock(folder / LOCK)
        if self.request.targets:
            wanted = with_upstream(self.request.targets, stages)
            stages = {name: stage for name, stage in stages.items() if name in wanted}
        side = open_side(folder, stages, lambda: cache_folder(folder if against else self.root))
        name = f"{LOCK} of {against}" if against else f"the committed {LOCK}"
        record = read_record(folder)
        if record is None:
            note = f"no {RECORD}: the record's machine is unknown"
            return side, _Reference(name, None, note)
        if record.lock_sha256 != sha256_file(folder / LOCK):
            note = (
                f"{RECORD} belongs to another {LOCK}, so the record's machine is unknown; on the "
                "machine that made it: plumbline verify --record"
            )
            return side, _Reference(name, None, note)
        return side, _Reference(name, record.machine)

    def _compare(self, side: Side, clone: Path, outcome: Outcome) -> list[StageResult]:
        rerun = open_side(clone, read_stages(clone), lambda: _own_cache(clone))
        return compare(side, rerun, outcome, read_tolerances(clone))


def _own_cache(clone: Path) -> Path:
    return clone / ".dvc" / "cache"


def _without_reference(outcome: Outcome) -> list[StageResult]:
    """The first of two runs failed: what it has done can be told, not compared."""
    done = [name for name in outcome.seconds if name != outcome.failed]
    results = [StageResult(name, Status.NOT_COMPARED, outcome.seconds[name]) for name in done]
    failed = outcome.failed or ""
    last = StageResult(failed, Status.FAILED, outcome.seconds.get(failed), detail=outcome.error)
    return [*results, last]


def _strictness(request: Request, here: Machine, recorded: Machine | None) -> tuple[bool, str]:
    """Whether only equal bytes pass, and why."""
    if request.tolerance == "exact":
        return True, "only equal bytes pass, as was asked for"
    if request.tolerance == "metrics":
        return False, "figures within verify.yaml pass, as was asked for"
    if recorded is None:
        return True, "only equal bytes pass: the record's machine is unknown"
    if here.differences(recorded):
        return False, "figures within verify.yaml pass: the record's machine is of another type"
    return True, "only equal bytes pass: the record's machine is of this type"


def record_machine(root: Path) -> None:
    """Write reproduction.json for the dvc.lock of the working tree.

    Raises:
        CheckpointError: there is no dvc.lock.
        ConfigError: it was made under other versions than are installed here.
    """
    stages = read_lock(root / LOCK)
    machine = describe_machine(threads_of(root))
    for stage in stages.values():
        for key, version in stage.params.items():
            name = key.removeprefix("params.yaml:versions.")
            installed = machine.versions.get(name, str(version)).split("+")[0]
            if name != key and installed != str(version):
                raise ConfigError(
                    f"{LOCK}: {stage.name} was made under {name} {version}, but {installed} is "
                    "installed, so it is not of this machine; run dvc repro here first"
                )
    atomic_write(root / RECORD, dump_record(root / LOCK, machine))
