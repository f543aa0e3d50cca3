"""Stage `report`: one self-contained page on everything of the current selection."""

from collections.abc import Sequence

from pydantic import ValidationInfo, field_validator

from plumbline import paths
from plumbline.config import Config
from plumbline.files import staged_output
from plumbline.names import GROUPS
from plumbline.report.settings import ReportSettings
from plumbline.stage import StageSpec, count, parse_call
from plumbline.tracking.record import record_run


class ReportConfig(Config):
    """The selection; of entries the page needs name, `path`, `data`, `start` and `weights`."""

    objects: dict[str, object]
    weights: dict[str, object]
    datasets: dict[str, object]
    align: dict[str, object]
    tasks: dict[str, object]
    report: ReportSettings
    """How much the page shows, and what model cards say."""

    @field_validator("report")
    @classmethod
    def _cards_of_tasks(cls, report: ReportSettings, info: ValidationInfo) -> ReportSettings:
        known = info.data.get("tasks", {})
        if unknown := sorted(set(report.cards) - set(known)):
            there = ", ".join(known) or "none"
            raise ValueError(f"cards.{unknown[0]}: no such task (there is {there})")
        return report


SPEC = StageSpec(
    name="report",
    schema=ReportConfig,
    sections=lambda _: {group: group for group in (*GROUPS, "report")},
)


def main(arguments: Sequence[str]) -> None:
    """Write `report/index.html`, and a model card of each task below `report/cards`."""
    call = parse_call(SPEC, arguments)
    from plumbline.report.page import render
    from plumbline.report.selection import Selection

    config = call.config
    with record_run(stage=SPEC.name, config=call.plain) as run:
        with staged_output(paths.REPORT) as out:
            selected = (config.objects, config.weights, config.datasets, config.align, config.tasks)
            rendered = render(Selection.from_params(*selected), config.report)
            (out / "index.html").write_text(rendered.page, encoding="utf-8")
            (out / "cards").mkdir()
            for task, card in rendered.cards.items():
                (out / "cards" / f"{task}.md").write_text(card, encoding="utf-8")
            call.store(out)
        run.artifact(paths.REPORT / "index.html")
    call.report(
        count(len(config.datasets), "dataset"),
        count(len(config.align), "alignment"),
        count(len(config.tasks), "task"),
        f"{len(rendered.page) / 1e6:.1f} MB",
        see=paths.REPORT / "index.html",
    )
