"""What the two stages that export have in common: model and cache in, a bundle out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.export.config import ExportConfig
from plumbline.export.formats import FORMATS, check_order
from plumbline.export.provenance import Name, describe_provenance
from plumbline.files import read_json, staged_output
from plumbline.imports import importing
from plumbline.registry import check_known
from plumbline.stage import CONFIG, Call
from plumbline.tracking.record import record_run

if TYPE_CHECKING:
    from plumbline.export.bundle import BundleFacts


class ExportStageConfig(Config):
    """What is exported, and how it is compared with its checkpoint."""

    threads: int = Field(ge=1)
    """Compute threads; sums of floats depend on their number."""
    data: str
    """An entry of `datasets`: samples for parity and self-test come from it."""
    export: ExportConfig
    """What the bundle holds, accepts and serves."""

    @field_validator("export")
    @classmethod
    def _known_formats(cls, export: ExportConfig) -> ExportConfig:
        # Here and not in the section's class, which is part of a training's code.
        check_known(FORMATS, *export.formats)
        check_order(export.formats)
        return export


@dataclass(frozen=True)
class ExportPlaces:
    """Where a stage finds what it exports, and where it writes."""

    model: Path
    code: Path
    out: Path
    overridden: bool
    """Whether settings came on the command line: they are in no file and have no digest."""


def run_export_stage(call: Call[ExportStageConfig], places: ExportPlaces) -> None:
    """Write a bundle, or its settings alone where none is wanted."""
    out = places.out
    with (
        record_run(stage=call.stage, key=call.key, config=call.plain) as run,
        staged_output(out) as partial,
    ):
        call.store(partial)
        facts = _write(call, places, partial) if call.config.export.enabled else None
        run.facts({**facts} if facts else {})
    if facts:
        call.report(*_figures(facts, call.config.export), see=out / "README.md")
    else:
        call.report("no bundle (export.enabled is false)", see=out / CONFIG)


def _write(call: Call[ExportStageConfig], places: ExportPlaces, out: Path) -> "BundleFacts":
    """Write the bundle; facts for the run record."""
    fix_threads(call.config.threads)
    with importing():
        import torch

        from plumbline.export.bundle import write_bundle
        from plumbline.export.plan import BundleSource
        from plumbline.loading.cache_reader import TrainingCache
        from plumbline.models.stored import ADAPTERS, load_model

    torch.set_num_threads(call.config.threads)
    model = places.model
    source = BundleSource(
        stored=load_model(model),
        cache=TrainingCache(paths.cache(call.config.data)),
        training=read_json(model / "config.json"),
        threads=call.config.threads,
        adapters=model / ADAPTERS if (model / ADAPTERS).is_dir() else None,
        provenance=describe_provenance(f"{call.stage}@{call.key}", _inputs(call, places)),
    )
    return write_bundle(source, call.config.export, out)


def _inputs(call: Call[ExportStageConfig], places: ExportPlaces) -> dict[Name, Path]:
    """What the stage depends on in dvc.yaml."""
    inputs: dict[Name, Path] = {
        "data": paths.cache(call.config.data),
        "settings": paths.settings(call.stage, call.key),
        "code": places.code,
        "model": places.model,
    }
    if places.overridden:
        del inputs["settings"]
    return inputs


def _figures(facts: "BundleFacts", config: ExportConfig) -> Iterator[str]:
    """What is said of a bundle."""
    if not config.formats:
        yield "weights alone"
    for name in config.formats:
        if cost := facts["cost"].get(name):
            figure = f"{cost['metric'].replace('_', ' ')} {cost['value']:g}"
            yield f"{name} ({figure}, the model itself {cost['checkpoint']:g}{_size(facts, name)})"
            continue
        if (parity := facts["parity"].get(name)) is None:
            yield f"{name} failed"
            continue
        agreement = next(f"{k} {v:g}" for k, v in parity.items() if k.endswith("_agreement"))
        difference = parity["max_logits_difference"]
        said = f"{agreement.replace('_', ' ')}, logits within {difference:g}"
        yield f"{name} ({said}{_size(facts, name)})"


def _size(facts: "BundleFacts", name: str) -> str:
    """Size and speed of a format, where there are some to choose from."""
    if name not in facts["answer_ms"]:
        return ""
    return f", {facts['bytes'][name] / 1e6:.2f} MB, {facts['answer_ms'][name]:g} ms an answer"
