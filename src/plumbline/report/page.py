"""The page: everything of the selection, put into one HTML file that needs no other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from plumbline import paths
from plumbline.config import without_folders
from plumbline.files import dump_json
from plumbline.report import figures
from plumbline.report.blocks import Block, by_part
from plumbline.report.collect import (
    Alignment,
    Dataset,
    Export,
    TaskResult,
    Training,
    collect_alignment,
    collect_dataset,
    collect_export,
    collect_task,
)
from plumbline.report.curves import Curve, training_curves
from plumbline.report.dag import BOX_HEIGHT, BOX_WIDTH, STAGES, draw
from plumbline.report.figure_table import FigureTable, figure_table
from plumbline.report.headline import Headline, alignment_headlines, task_headlines
from plumbline.report.pictures import Pictures
from plumbline.report.samples import Key, Subject
from plumbline.report.selection import Selection
from plumbline.text import finalize

TEMPLATES = Path(__file__).parent / "templates"
ANSWERS_SHOWN = 12
SIZES_SHOWN = 5


@dataclass(frozen=True)
class Section:
    """One entry of the selection, ready for the template."""

    name: str
    anchor: str
    result: Alignment | TaskResult | Dataset
    data: str = ""
    """Its dataset."""
    pictures: Pictures | None = None
    headlines: list[Headline] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    settings: str = ""
    start: str = ""
    """The path that a task starts from."""
    export: Export | None = None
    figures: FigureTable | None = None
    blocks: dict[str, list[Block]] = field(default_factory=dict)
    """What the evaluation of a task left, by part."""
    subjects: list[Subject] = field(default_factory=list)
    """What the examples of an alignment are about."""


def render_page(selection: Selection) -> str:
    """Read the outputs of the selection, and write the page.

    Equal outputs give equal bytes: the page holds no time, host or path of a machine.

    Raises:
        CheckpointError: an output of the selection is missing or damaged.
        ConfigError: tasks start from each other in a circle.
    """
    anchors = {
        group: {name: f"{group}-{at}" for at, name in enumerate(names)}
        for group, names in (
            ("align", selection.align),
            ("task", selection.tasks),
            ("data", selection.datasets),
        )
    }
    pictures = {name: Pictures(paths.cache(name)) for name in selection.datasets}
    template = _environment().get_template("report.html.j2")
    return template.render(
        selection=selection,
        alignments=[
            _alignment(name, anchors["align"][name], data, pictures[data])
            for name, data in selection.align.items()
        ],
        tasks=[
            _task(selection, name, anchors["task"][name], pictures[task.data])
            for name, task in selection.tasks.items()
        ],
        datasets=[
            Section(name, anchors["data"][name], collect_dataset(name))
            for name in selection.datasets
        ],
        anchors=anchors,
        drawing=draw(selection),
        box={"width": BOX_WIDTH, "height": BOX_HEIGHT},
        stages=STAGES,
        limits={"answers": ANSWERS_SHOWN, "sizes": SIZES_SHOWN},
        paths=paths,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # captions, questions and ids come from data, and may hold HTML
        finalize=finalize,  # ... or turn the text around them
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        name: getattr(figures, name) for name in ("label", "number", "percent", "share", "size")
    }
    environment.filters.update(filters)
    environment.filters["width"] = _width
    environment.filters["full_label"] = figures.full_label
    environment.filters["figure_of"] = lambda value, name: figures.figure(name, value)
    return environment


def _width(part: float, whole: float = 1.0) -> str:
    """A part as a width for CSS."""
    return f"{100 * min(max(part / whole, 0.0), 1.0):.2f}%" if whole else "0%"


def _alignment(name: str, anchor: str, data: str, pictures: Pictures) -> Section:
    result = collect_alignment(name, data)
    return Section(
        name=name,
        anchor=anchor,
        result=result,
        data=data,
        pictures=pictures,
        headlines=alignment_headlines(result.metrics, result.details),
        curves=training_curves(result.training, anchor),
        settings=_settings(result.training),
        subjects=[
            result.samples.subject(Key(result.modality, example["medium"]))
            for example in result.examples
        ],
    )


def _task(selection: Selection, name: str, anchor: str, pictures: Pictures) -> Section:
    data = selection.tasks[name].data
    result, export = collect_task(name, data, anchor), collect_export(name)
    return Section(
        name=name,
        anchor=anchor,
        result=result,
        data=data,
        pictures=pictures,
        headlines=task_headlines(result.metrics, export, result.details),
        figures=figure_table(result.metrics),
        blocks=by_part(result.blocks),
        curves=training_curves(result.training, anchor),
        settings=_settings(result.training),
        start=str(without_folders(selection.tasks[name].start)),
        export=export,
    )


def _settings(training: Training) -> str:
    return dump_json(without_folders(training.settings.get("train", training.settings)))
