"""Stage by stage: is what came out what the record says, and where did a difference begin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from plumbline.files import DIGESTS
from plumbline.reproduction.lock import StageEntry, Stages, feeds, in_dag_order, read_graph
from plumbline.reproduction.tolerance import Tolerances


class Status(StrEnum):
    """How a stage of the rerun compares with the record."""

    EQUAL = "equal"
    WITHIN = "within tolerance"
    DIFFERENT = "different"
    MISSING = "missing"
    """In the record, but the pipeline has no such stage."""
    EXTRA = "extra"
    """In the pipeline, but the record has no such stage."""
    FAILED = "failed"
    NOT_RUN = "not run"
    """A stage before it failed."""
    NOT_COMPARED = "not compared"
    """It ran, but what it was to be compared with failed."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: the record, or a rerun."""

    stages: Stages
    figures: Mapping[str, Mapping[str, object]]
    """Metrics file -> its figures, by full name."""
    list_folder: Callable[[str], Mapping[str, str] | None]
    """MD5 of a folder -> its files with their MD5s; None where the list is not at hand."""


@dataclass(frozen=True)
class Outcome:
    """How a rerun went."""

    seconds: Mapping[str, float]
    failed: str | None = None
    error: str | None = None
    """The end of what the failed stage said."""


@dataclass(frozen=True)
class FigureDifference:
    """A figure that is not the same on both sides; None stands for not there."""

    figure: str
    recorded: object
    found: object
    allowed: float
    within: bool


@dataclass
class StageResult:
    """A line of the certificate."""

    name: str
    status: Status
    seconds: float | None = None
    output: str | None = None
    """The first output that differs."""
    file: str | None = None
    """The first file in it that differs, where the output is a folder and both lists are there."""
    detail: str | None = None
    consequence_of: str | None = None
    """The stage at which the difference began, where that is another one."""
    changed_inputs: list[str] = field(default_factory=list)
    """Code, data and parameters that are not those of the record."""
    figures: list[FigureDifference] = field(default_factory=list)


def compare(
    record: Side, rerun: Side, outcome: Outcome, tolerances: Tolerances
) -> list[StageResult]:
    """Compare a rerun with the record, in the order of the DAG."""
    return _Comparison(record, rerun, outcome, tolerances).results()


def differing_outputs(recorded: StageEntry, found: StageEntry) -> list[str]:
    """Outputs that only one side has or whose bytes differ, in the order of dvc.lock."""
    outs = [*recorded.outs, *(out for out in found.outs if out not in recorded.outs)]
    return [out for out in outs if recorded.outs.get(out) != found.outs.get(out)]


def changed_inputs(recorded: StageEntry, found: StageEntry, stages: Stages) -> list[str]:
    """Inputs that no stage makes and that are not the same on both sides."""
    made = [out for stage in stages.values() for out in stage.outs]
    deps = [d for d in sorted({*recorded.deps, *found.deps}) if not any(feeds(o, d) for o in made)]
    params = sorted({*recorded.params, *found.params})
    changed = ["cmd"] if recorded.command != found.command else []
    changed += [dep for dep in deps if recorded.deps.get(dep) != found.deps.get(dep)]
    return changed + [p for p in params if recorded.params.get(p) != found.params.get(p)]


def compare_figures(
    recorded: Mapping[str, object], found: Mapping[str, object], tolerances: Tolerances
) -> list[FigureDifference]:
    """The figures that differ, each with what is allowed for it."""
    differences = []
    for name in [*recorded, *(name for name in found if name not in recorded)]:
        old, new = recorded.get(name), found.get(name)
        if name in recorded and name in found and old == new:
            continue
        allowed, within = 0.0, False
        if isinstance(old, int | float) and isinstance(new, int | float):
            allowed = tolerances.allowed(name, old)
            within = abs(new - old) <= allowed
        differences.append(FigureDifference(name, old, new, allowed, within))
    return differences


class _Comparison:
    def __init__(self, record: Side, rerun: Side, outcome: Outcome, tolerances: Tolerances) -> None:
        self._record, self._rerun, self._outcome = record, rerun, outcome
        self._tolerances = tolerances
        self._stages = {**record.stages, **rerun.stages}
        self._reads = read_graph(self._stages)
        self._order = in_dag_order(self._reads)
        self._results: dict[str, StageResult] = {}

    def results(self) -> list[StageResult]:
        for name in self._order:
            self._results[name] = self._compare_stage(name)
        failed = self._outcome.failed
        if failed and failed not in self._results:  # neither side has an entry of it
            result = StageResult(failed, Status.FAILED, self._outcome.seconds.get(failed))
            result.detail = self._outcome.error
            self._results[failed] = result
        return list(self._results.values())

    def _compare_stage(self, name: str) -> StageResult:
        recorded, found = self._record.stages.get(name), self._rerun.stages.get(name)
        result = StageResult(name, Status.EQUAL, self._outcome.seconds.get(name))
        if name == self._outcome.failed:
            result.status, result.detail = Status.FAILED, self._outcome.error
            result.consequence_of = self._origin(name)
        elif found is None:
            result.status = Status.NOT_RUN if self._outcome.failed else Status.MISSING
            result.consequence_of = self._outcome.failed
        elif recorded is None:
            result.status = Status.EXTRA
            result.consequence_of = self._origin(name)
        else:
            result.changed_inputs = changed_inputs(recorded, found, self._stages)
            if outs := differing_outputs(recorded, found):
                self._describe(result, recorded, found, outs[0])
                result.consequence_of = self._origin(name)
                result.status = self._judge(result, outs)
        return result

    def _describe(
        self, result: StageResult, recorded: StageEntry, found: StageEntry, out: str
    ) -> None:
        result.output = out
        old, new = recorded.outs.get(out), found.outs.get(out)
        if old is None or new is None:
            result.detail = "only in the rerun" if old is None else "only in the record"
        elif old.endswith(".dir") and new.endswith(".dir"):
            result.file, result.detail = self._first_file(old, new)

    def _first_file(self, old: str, new: str) -> tuple[str | None, str | None]:
        before, after = self._record.list_folder(old), self._rerun.list_folder(new)
        if before is None or after is None:
            return None, "the record's list of its files is not in the DVC cache"
        differing = sorted(f for f in {*before, *after} if before.get(f) != after.get(f))
        # The digests of the others differ whenever one of them does.
        first = next((f for f in differing if f != DIGESTS), DIGESTS)
        if first not in before:
            return first, "only in the rerun"
        return first, None if first in after else "only in the record"

    def _origin(self, name: str) -> str | None:
        """Where the first differing input of a stage began to differ; None: all are equal."""
        differing = {maker for maker, out in self._reads[name] if self._differs(maker, out)}
        first = next((r for r in self._results.values() if r.name in differing), None)
        return (first.consequence_of or first.name) if first else None

    def _differs(self, stage: str, out: str) -> bool:
        recorded, found = self._record.stages.get(stage), self._rerun.stages.get(stage)
        if recorded is None or found is None:
            return True
        return recorded.outs.get(out) != found.outs.get(out)

    def _judge(self, result: StageResult, outs: list[str]) -> Status:
        """A stage whose bytes differ is judged by its figures, or else by those made from it."""
        if self._tolerances.is_exact(result.name):
            return Status.DIFFERENT
        own = [
            file for file in self._record.figures if file in self._rerun.stages[result.name].outs
        ]
        judged_by = own or self._figures_made_from({(result.name, out) for out in outs})
        differences = [d for file in judged_by for d in self._figures_apart(file)]
        if own:
            result.figures = differences
        if judged_by:
            within = all(difference.within for difference in differences)
        else:
            # Nothing measures it: it is as good as what it was made from.
            sources = self._differing_sources(result.name)
            within = bool(sources) and all(s.status == Status.WITHIN for s in sources)
        return Status.WITHIN if within else Status.DIFFERENT

    def _figures_apart(self, file: str) -> list[FigureDifference]:
        found = self._rerun.figures.get(file, {})
        return compare_figures(self._record.figures[file], found, self._tolerances)

    def _figures_made_from(self, differing: set[tuple[str, str]]) -> list[str]:
        """Metrics files of the record that depend on one of the (stage, output) pairs."""
        reached = {stage for stage, _ in differing}
        pairs = set(differing)
        for name in self._order:
            if name not in reached and pairs & self._reads[name]:
                reached.add(name)
                pairs |= {(name, out) for out in self._stages[name].outs}
        return [file for file in self._record.figures if any(out == file for _, out in pairs)]

    def _differing_sources(self, name: str) -> list[StageResult]:
        return [self._results[p] for p, out in self._reads[name] if self._differs(p, out)]
