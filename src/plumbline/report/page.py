"""The page: everything of the selection, put into one HTML file that needs no other."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from plumbline import paths
from plumbline.config import without_folders
from plumbline.files import dump_json
from plumbline.report import figures
from plumbline.report.blocks import Block, by_part
from plumbline.report.card import CardPart, as_markdown, model_card
from plumbline.report.collect import (
    Alignment,
    Dataset,
    Export,
    TaskResult,
    Training,
    Wanted,
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
from plumbline.report.rows import ShownRows
from plumbline.report.samples import Key, Subject
from plumbline.report.selection import Selection
from plumbline.report.settings import CardSettings, ReportSettings
from plumbline.report.sounds import Sounds
from plumbline.text import finalize, shown

TEMPLATES = Path(__file__).parent / "templates"
ANSWERS_SHOWN = 12
SIZES_SHOWN = 5
FILES_SHOWN = 8
DEFAULTS = ReportSettings()
TIMES = "../.plumbline/stage_times.svg"
"""Beside the page lies what differs from machine to machine; no output of a stage."""


@dataclass(frozen=True)
class Media:
    """What the page takes from the cache of a dataset."""

    pictures: Pictures
    sounds: Sounds
    rows: ShownRows


@dataclass(frozen=True)
class Section:
    """One entry of the selection, ready for the template."""

    name: str
    anchor: str
    result: Alignment | TaskResult | Dataset
    data: str = ""
    """Its dataset."""
    media: "Media | None" = None
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
    card: list[CardPart] = field(default_factory=list)


@dataclass(frozen=True)
class Rendered:
    """The page, and what stands beside it."""

    page: str
    cards: dict[str, str]
    """Task -> its model card, in Markdown."""


def render_page(selection: Selection, settings: ReportSettings = DEFAULTS) -> str:
    """As `render`: the page alone."""
    return render(selection, settings).page


def render(selection: Selection, settings: ReportSettings) -> Rendered:
    """Read the outputs of the selection, and write the page and the cards.

    Equal outputs give equal bytes: they hold no time, host or path of a machine.

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
    media = {
        name: Media(
            Pictures(paths.cache(name), settings.image_side),
            Sounds(paths.cache(name), settings.audio_s),
            ShownRows(anchors["data"][name]),
        )
        for name in selection.datasets
    }
    datasets = {name: collect_dataset(name, settings) for name in selection.datasets}
    alignments = [
        _alignment(name, anchors["align"][name], data, media[data], settings)
        for name, data in selection.align.items()
    ]
    tasks = []
    for name, task in selection.tasks.items():
        section = _task(selection, name, anchors["task"][name], media[task.data], settings)
        assert isinstance(section.result, TaskResult)
        said = settings.cards.get(name, CardSettings())
        card = model_card(name, task, section.result, datasets[task.data], said)
        tasks.append(replace(section, card=card))
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            selection=selection,
            alignments=alignments,
            tasks=tasks,
            datasets=[
                Section(name, anchors["data"][name], dataset, media=media[name])
                for name, dataset in datasets.items()
            ],
            anchors=anchors,
            drawing=draw(selection),
            box={"width": BOX_WIDTH, "height": BOX_HEIGHT},
            stages=STAGES,
            limits={"answers": ANSWERS_SHOWN, "sizes": SIZES_SHOWN, "files": FILES_SHOWN},
            paths=paths,
            times=TIMES,
        )
    )
    return Rendered(page, {task.name: as_markdown(task.name, task.card) for task in tasks})


def environment() -> Environment:
    """What fills the templates: it escapes every value, and knows how figures are printed."""
    made = Environment(
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
    made.filters.update(filters)
    made.filters["width"] = _width
    made.filters["breaks"] = breaks
    made.filters["full_label"] = figures.full_label
    made.filters["figure_of"] = lambda value, name: figures.figure(name, value)
    return made


def _width(part: float, whole: float = 1.0) -> str:
    """A part as a width for CSS."""
    return f"{100 * min(max(part / whole, 0.0), 1.0):.2f}%" if whole else "0%"


def breaks(path: object) -> Markup:
    """A path or a command that may go on in the next line behind a slash, and nowhere else."""
    parts = re.split(r"(?<=[/@])", shown(str(path)))
    return Markup("<wbr>").join(parts)


def _alignment(
    name: str, anchor: str, data: str, media: Media, settings: ReportSettings
) -> Section:
    result = collect_alignment(name, data, Wanted(settings, media.rows))
    return Section(
        name=name,
        anchor=anchor,
        result=result,
        data=data,
        media=media,
        headlines=alignment_headlines(result.metrics, result.details),
        curves=training_curves(result.training, anchor),
        settings=_settings(result.training),
        subjects=[
            result.samples.subject(Key(result.modality, example["medium"]))
            for example in result.examples
        ],
    )


def _task(
    selection: Selection, name: str, anchor: str, media: Media, settings: ReportSettings
) -> Section:
    data = selection.tasks[name].data
    wanted = Wanted(settings, media.rows)
    result, export = collect_task(name, data, anchor, wanted), collect_export(name)
    return Section(
        name=name,
        anchor=anchor,
        result=result,
        data=data,
        media=media,
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
