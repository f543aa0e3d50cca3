"""The certificate: whether a commit gives again what it says, as JSON and as a page to read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from plumbline.files import dump_json
from plumbline.reproduction.compare import FigureDifference, StageResult, Status
from plumbline.reproduction.machine import Machine

_SHOWN_INPUTS = 4
_SHOWN_FIGURES = 12


@dataclass(frozen=True)
class Certificate:
    """One verification."""

    commit: str
    date: str
    """UTC, when the verification began."""
    preset: str | None
    compared_with: str
    exact: bool
    """Whether only equal bytes pass."""
    why: str
    """Why they must be equal, or need not be."""
    stages: Sequence[StageResult]
    machine: Machine
    recorded_machine: Machine | None
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether every stage is as good as it must be here."""
        good = {Status.EQUAL} if self.exact else {Status.EQUAL, Status.WITHIN}
        return bool(self.stages) and all(stage.status in good for stage in self.stages)

    @property
    def culprit(self) -> StageResult | None:
        """The first stage, in the order of the DAG, that is not equal."""
        unequal = (s for s in self.stages if s.status != Status.EQUAL)
        return next((s for s in unequal if s.status != Status.NOT_COMPARED), None)

    def json(self) -> str:
        """Everything, for machines."""
        content = asdict(self)
        content["stages"] = [asdict(stage) for stage in self.stages]
        for name in ("machine", "recorded_machine"):
            machine = getattr(self, name)
            content[name] = machine.model_dump() if machine else None
        first = self.culprit.name if self.culprit else None
        return dump_json(content | {"passed": self.passed, "first_difference": first})

    def markdown(self) -> str:
        """Everything that a reader asks for, readable in a terminal too."""
        blocks = [self._heading(), _table(self.stages)]
        blocks += [_explain(stage) for stage in self.stages if stage.status != Status.EQUAL]
        stale = {i for stage in self.stages for i in stage.changed_inputs}
        if stale:
            blocks.append(
                f"Not the inputs of the record: {_some(sorted(stale))}. After a change that is "
                "meant, run dvc repro and commit dvc.lock and metrics/."
            )
        blocks += [f"Note: {note}" for note in self.notes]
        return "\n\n".join([*filter(None, blocks), self._machines()]) + "\n"

    def _heading(self) -> str:
        seconds = sum(stage.seconds or 0.0 for stage in self.stages)
        counts = [(status, sum(s.status == status for s in self.stages)) for status in Status]
        summary = ", ".join(f"{count} {status}" for status, count in counts if count)
        lines = [
            f"# Reproduction certificate: {'passed' if self.passed else 'FAILED'}",
            "",
            f"Commit {self.commit}, {self.preset or 'default'} settings, {self.date}.",
            f"Compared with {self.compared_with}; {self.why}.",
            f"Stages: {summary or 'none'}; {seconds:.0f} s.",
        ]
        if self.culprit:
            lines.append(f"First difference: **{_place(self.culprit)}** ({self.culprit.status}).")
        return "\n".join(lines)

    def _machines(self) -> str:
        versions = " ".join(f"{k} {v}" for k, v in sorted(self.machine.versions.items()))
        accelerators = ", ".join(self.machine.accelerators) or "no GPU"
        lines = [
            f"Machine: {self.machine.cpu}, {self.machine.architecture}, "
            f"{self.machine.capability}, {accelerators}, {self.machine.threads} threads.",
            f"Versions: python {self.machine.python}, {self.machine.libc}, {versions}.",
        ]
        if self.recorded_machine:
            apart = self.machine.differences(self.recorded_machine)
            lines.append(f"The record's machine: {'; '.join(apart) or 'of the same type'}.")
        return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_INPUTS
    return ", ".join(names[:_SHOWN_INPUTS]) + (f" and {more} more" if more > 0 else "")


def _place(stage: StageResult) -> str:
    parts = [stage.name, stage.output or "", stage.file or ""]
    return ": ".join(part for part in parts if part)


def _table(stages: Sequence[StageResult]) -> str:
    rows = [("stage", "status", "seconds", "first differing output")]
    for stage in stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.1f}"
        rows.append((stage.name, stage.status, seconds, _first_output(stage)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * (widths[2] - 1) + ":", "-" * widths[3]))
    lines = []
    for name, status, seconds, output in rows:
        cells = (name.ljust(widths[0]), status.ljust(widths[1]), seconds.rjust(widths[2]))
        lines.append(f"| {' | '.join(cells)} | {output.ljust(widths[3])} |")
    return "\n".join(lines)


def _first_output(stage: StageResult) -> str:
    place = "/".join(part for part in (stage.output, stage.file) if part)
    if stage.consequence_of:
        place = f"{place} (after {stage.consequence_of})".strip()
    return place


def _explain(stage: StageResult) -> str:
    """What to know of a stage at which a difference began; of its consequences only figures."""
    lines = []
    if stage.consequence_of is None:
        lines.append(f"{_place(stage)}: {_reason(stage)}.")
    if stage.status == Status.FAILED and stage.detail:
        lines += ["", "```", stage.detail, "```"]
    figures = sorted(stage.figures, key=lambda difference: difference.within)
    lines += [f"- {_figure(difference)}" for difference in figures[:_SHOWN_FIGURES]]
    if (more := len(figures) - _SHOWN_FIGURES) > 0:
        lines.append(f"- and {more} more, in the JSON")
    return "\n".join(lines)


_REASONS = {
    Status.MISSING: "in the record, but the pipeline has no such stage; dvc repro and commit, or "
    "take it out of dvc.lock",
    Status.EXTRA: "the record has no such stage; dvc repro and commit dvc.lock",
    Status.FAILED: "failed",
    Status.NOT_COMPARED: "there is nothing to compare it with",
    Status.NOT_RUN: "a stage before it failed",
}


def _reason(stage: StageResult) -> str:
    if stage.status in _REASONS:
        return _REASONS[stage.status]
    detail = f" ({stage.detail})" if stage.detail else ""
    if stage.changed_inputs:
        return f"other bytes{detail}, from other inputs: {_some(stage.changed_inputs)}"
    return f"other bytes{detail}, from the same inputs"


def _figure(difference: FigureDifference) -> str:
    verdict = "within" if difference.within else "OUTSIDE"
    recorded, found = (_number(v) for v in (difference.recorded, difference.found))
    return f"{difference.figure}: {recorded} -> {found}, {verdict} {difference.allowed:g}"


def _number(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
