"""What the page shows, read from the outputs of the stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from plumbline import paths
from plumbline.errors import CheckpointError
from plumbline.files import DIGESTS, read_digests, read_json, sha256_file
from plumbline.report.blocks import Block, Scene
from plumbline.report.distributions import DataSpread, data_spread
from plumbline.report.figures import label, number
from plumbline.report.first_figures import DETAILS, RECALL, Details
from plumbline.report.history import Series, read_series
from plumbline.report.labels import LabelCounts, label_counts
from plumbline.report.looks import wanted_rows
from plumbline.report.predictions import prediction_blocks
from plumbline.report.rejected import Rejected, choose_rejected
from plumbline.report.retrieval import Search, text_searches
from plumbline.report.rows import ShownRows
from plumbline.report.samples import Samples
from plumbline.report.settings import ReportSettings
from plumbline.report.tables import table_blocks
from plumbline.shapes.described import Shapes
from plumbline.shapes.distributed import DISTRIBUTIONS, Distributions
from plumbline.shapes.remarks import describe_distributions
from plumbline.shapes.repeats import describe_repeats
from plumbline.tokenization.cache_spread import CacheSpread, describe_constant
from plumbline.tokenization.facts import CacheFacts
from plumbline.training.figures import ParameterCounts, TrainingFigures
from plumbline.validation.report import Report


@dataclass(frozen=True)
class Recall:
    """One cell of a recall table, with its 95 % interval where there is one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RecallTable:
    """Recall@k of one direction."""

    direction: str
    ks: list[int]
    rows: dict[int | None, dict[int, Recall]]
    """Width of the embeddings, None for all of them -> k -> recall; the widest first."""

    @property
    def medium(self) -> str:
        """What the texts are found for; "" in the other direction."""
        return self.direction.removesuffix(" to text") if " to text" in self.direction else ""


@dataclass(frozen=True)
class Training:
    """What a model folder says about how the model came to be."""

    facts: list[tuple[str, str]]
    parts: dict[str, ParameterCounts]
    """Part of the model -> parameters: `all` and `trained`."""
    steps: dict[str, Series]
    validations: dict[str, Series]
    best_step: int | None
    settings: Mapping[str, object]
    weights_bytes: int


class Found(TypedDict):
    """A text that was found for a medium."""

    text: str
    score: float
    right: bool


class Example(TypedDict):
    """A medium, by its number, and what was found for it, best first."""

    medium: int
    found: list[Found]


@dataclass(frozen=True)
class Alignment:
    """Everything about an alignment."""

    split: str
    metrics: dict[str, float]
    details: Details
    recalls: list[RecallTable]
    examples: list[Example]
    modality: str
    """What meets the texts, as the names of the figures have it: image or audio."""
    samples: Samples
    searches: list[Search]
    embed_dim: int | None
    training: Training


@dataclass(frozen=True)
class TaskResult:
    """Everything about a task."""

    kind: str
    split: str
    metrics: dict[str, float]
    blocks: list[Block]
    """Its tables and predictions."""
    details: Details
    training: Training


@dataclass(frozen=True)
class Dataset:
    """Everything about a dataset."""

    account: Report
    """The account of validation (report.json)."""
    reasons: dict[str, int]
    """Rejected rows by reason, the most frequent first."""
    rejected: dict[str, list[Rejected]]
    """A few rejected rows by reason."""
    shapes: Shapes
    answers: dict[str, int]
    """The most frequent answers of training."""
    remarks: list[str]
    """Lines about repeats and contradictions, distributions, and media that say nothing."""
    spread: DataSpread
    labels: list[LabelCounts]
    cache: CacheFacts


@dataclass(frozen=True)
class Export:
    """What a bundle holds."""

    files: dict[str, int]
    """Path in the bundle -> bytes; the largest first."""
    parity: dict[str, dict[str, float]]
    """Format -> how well it agrees with the checkpoint; empty where only weights were written."""
    failed: dict[str, str]
    """Format that could not be written -> why."""


def verified(folder: Path, name: str) -> Path:
    """The path of a small file in a published folder, checked against its digest.

    Raises:
        CheckpointError: it is missing, or its bytes have changed since it was written.
    """
    file, expected = folder / name, read_digests(folder).get(name)
    if not file.is_file() or expected != sha256_file(file):
        raise CheckpointError(
            f"{file}: not as it was written (SHA-256 differs from {DIGESTS}); remove it from the "
            "workspace and the DVC cache, then run dvc repro -f"
        )
    return file


@dataclass(frozen=True)
class Wanted:
    """How much is read of an entry, and where the rows that it names are kept."""

    settings: ReportSettings
    rows: ShownRows
    """Of its dataset."""


def collect_alignment(name: str, data: str, wanted: Wanted) -> Alignment:
    """Read everything about the alignment `name` on the dataset `data`.

    Raises:
        CheckpointError: an output is missing or damaged.
    """
    folder = paths.alignment_evaluation(name)
    details = collect_details(folder)
    metrics = details["figures"]
    training = collect_training(paths.aligned(name))
    embed_dim = _reach(training.settings, "train", "model", "embed_dim")
    split = str(_reach(_settings(folder), "evaluate", "split"))
    recalls = recall_tables(metrics)
    modality = next((t.medium for t in recalls if t.medium), "image")
    for file in (file for file in read_digests(folder) if file.endswith(".npy")):
        verified(folder, file)
    samples, shown = Samples(paths.cache(data), split, wanted.rows), wanted.settings.samples
    return Alignment(
        split=split,
        metrics=metrics,
        details=details,
        recalls=recalls,
        examples=read_json(verified(folder, "examples.json"))[:shown],
        modality=modality,
        samples=samples,
        searches=text_searches(folder, samples, modality, shown),
        embed_dim=embed_dim if isinstance(embed_dim, int) else None,
        training=training,
    )


def recall_tables(metrics: Mapping[str, float]) -> list[RecallTable]:
    """Sort the recalls of a metrics file into one table per direction."""
    tables: dict[str, dict[int | None, dict[int, Recall]]] = {}
    for name, value in metrics.items():
        if match := RECALL.fullmatch(name):
            direction, k, width = match.groups()
            cell = Recall(value, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
            rows = tables.setdefault(direction, {})
            rows.setdefault(int(width) if width else None, {})[int(k)] = cell
    return [
        RecallTable(
            direction=direction.replace("_", " "),
            ks=sorted({k for row in rows.values() for k in row}),
            rows=dict(sorted(rows.items(), key=lambda row: -(row[0] or 10**9))),
        )
        for direction, rows in sorted(tables.items())
    ]


def collect_task(name: str, data: str, anchor: str, wanted: Wanted) -> TaskResult:
    """Read everything about the task `name` on the dataset `data`.

    Args:
        name: of the task.
        data: its dataset.
        anchor: unique on the page, letters, digits and dashes.
        wanted: how much of it is shown.

    Raises:
        CheckpointError: an output is missing or damaged.
    """
    folder = paths.task_evaluation(name)
    settings, digests = _settings(folder), read_digests(folder)
    split, details = str(_reach(settings, "evaluate", "split")), collect_details(folder)
    samples = Samples(paths.cache(data), split, wanted.rows)
    scene = Scene(anchor, folder, samples, details, wanted.settings.samples)
    tables = sorted(file for file in digests if file.endswith(".csv"))
    for file in tables:
        verified(folder, file)
    blocks = table_blocks(tables, folder, scene)
    if "predictions.parquet" in digests:
        for file in (file for file in digests if file.startswith("attention")):
            verified(folder, file)
        looked = wanted_rows(folder, list(digests))
        blocks += prediction_blocks(verified(folder, "predictions.parquet"), scene, looked)
    return TaskResult(
        kind=str(details.get("title") or settings.get("kind", "")),
        split=split,
        metrics=details["figures"],
        blocks=blocks,
        details=details,
        training=collect_training(paths.finetuned(name)),
    )


def collect_details(folder: Path) -> Details:
    """Read all that an evaluation says of its figures.

    Raises:
        CheckpointError: the file is missing, or has changed since it was written.
    """
    details: Details = read_json(verified(folder, DETAILS))
    return details


def figures_of(folder: Path) -> dict[str, float]:
    """Read all figures of an evaluation; its metrics file has the first of them.

    Raises:
        CheckpointError: the file is missing, or has changed since it was written.
    """
    return collect_details(folder)["figures"]


def _settings(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = read_json(verified(folder, "config.json"))
    return settings


def _reach(settings: Mapping[str, object], *keys: str) -> object:
    """A value within settings; None where there is none."""
    value: object = settings
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def collect_training(folder: Path) -> Training:
    """Read history, figures and settings of a model folder.

    Raises:
        CheckpointError: the folder is missing or damaged.
    """
    metrics: TrainingFigures = read_json(verified(folder, "metrics.json"))
    best = metrics.get("best")
    first = {
        "epochs": metrics.get("epochs"),
        "optimizer_steps": metrics.get("optimizer_steps"),
        "samples": metrics.get("samples"),
        "final_train_loss": metrics.get("final_train_loss"),
    }
    facts = [
        (label(name, "training"), number(value))
        for name, value in first.items()
        if value is not None
    ]
    if best:
        facts.append(("Best validation", f"{number(best['value'])} in epoch {best['epoch']}"))
    last = {
        "skipped_steps": metrics.get("skipped_steps"),
        "frozen_tensors_unchanged": metrics.get("frozen_tensors_unchanged"),
    }
    facts += [(label(name, "training"), number(value)) for name, value in last.items() if value]
    return Training(
        facts=facts,
        parts=metrics.get("parameters", {}),
        steps=read_series(folder / "train.csv"),
        validations=read_series(folder / "val.csv"),
        best_step=int(best["step"]) if best else None,
        settings=read_json(verified(folder, "config.json")),
        weights_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def collect_dataset(name: str, settings: ReportSettings) -> Dataset:
    """Read everything about the dataset `name`.

    Raises:
        CheckpointError: an output is missing or damaged.
    """
    quarantine = paths.quarantine(name)
    account: Report = read_json(verified(quarantine, "report.json"))
    shapes: Shapes = read_json(verified(paths.shapes(name), "shapes.json"))
    clean: Distributions = read_json(verified(paths.distributions(name), DISTRIBUTIONS))
    cached: CacheSpread = read_json(verified(paths.cache_distributions(name), DISTRIBUTIONS))
    answers = shapes["answers"]["most_frequent"] if "answers" in shapes else {}
    return Dataset(
        account=account,
        reasons=_ranked(account["reasons"]),
        rejected=choose_rejected(quarantine, account["reasons"], settings),
        shapes=shapes,
        answers=_ranked(answers),
        remarks=[
            *describe_repeats(shapes),
            *describe_distributions(clean),
            *describe_constant(cached),
        ],
        spread=data_spread(clean, cached),
        labels=label_counts(shapes),
        cache=read_json(verified(paths.cache(name), "cache.json")),
    )


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def collect_export(task: str) -> Export | None:
    """Read what the bundle of `task` holds; None where there is none.

    Raises:
        CheckpointError: the bundle is damaged.
    """
    folder = paths.export(task)
    if not folder.is_dir():
        return None
    if not read_json(verified(folder, "config.json"))["export"]["enabled"]:
        return None
    formats = read_json(verified(folder, "metadata.json")).get("formats", {})
    try:
        files = {name: (folder / name).stat().st_size for name in [*read_digests(folder), DIGESTS]}
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing; run dvc checkout") from None
    return Export(
        files=_ranked(files),
        parity={
            name: {key: value for key, value in facts["parity"].items() if _is_number(value)}
            for name, facts in formats.items()
            if facts.get("parity")
        },
        failed={name: facts["error"] for name, facts in formats.items() if "error" in facts},
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
