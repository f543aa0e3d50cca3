"""Stage `export_model`: a task's model as a bundle that runs by itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, create_model, field_validator

from plumbline import paths
from plumbline.config import Config, fix_threads
from plumbline.errors import ConfigError
from plumbline.export.config import ExportConfig
from plumbline.export.formats import FORMATS, check_order
from plumbline.export.provenance import Name, describe_provenance
from plumbline.files import read_json, staged_output
from plumbline.imports import importing
from plumbline.kind import KINDS
from plumbline.registry import check_known
from plumbline.stage import CONFIG, Call, StageSpec, parse_call
from plumbline.tracking.record import record_run

if TYPE_CHECKING:
    from plumbline.export.bundle import BundleFacts


class ExportModelConfig(Config):
    """What is exported, and how it is compared with its checkpoint."""

    threads: int = Field(ge=1)
    """Compute threads; sums of floats depend on their number."""
    kind: str
    """The kind of work, which decides what the sections may hold."""
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


def schema_of_kind(kind: str) -> type[ExportModelConfig]:
    """The settings of one kind of task.

    Raises:
        ConfigError: there is no such kind.
    """
    settings = KINDS[kind].settings.export
    if settings is None:
        raise ConfigError("models of this kind are not exported; leave `export` out")
    return create_model("ExportModelConfig", __base__=ExportModelConfig, export=(settings, ...))


SPEC = StageSpec(
    name="export_model",
    schema=ExportModelConfig,
    schema_of_kind=schema_of_kind,
    roles=("settings", "model", "export"),
    group="tasks",
    sections=lambda key: {
        "threads": "threads",
        "kind": f"tasks.{key}.kind",
        "data": f"tasks.{key}.data",
        "export": f"tasks.{key}.export",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `exports/<task>`."""
    call = parse_call(SPEC, arguments)
    out = paths.export(call.key)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(out) as partial,
    ):
        call.store(partial)
        facts: BundleFacts | None = None
        if call.config.export.enabled:
            # Overrides behind the key are in no file: those settings have no digest.
            facts = _write(call, partial, overridden=len(arguments) > 1)
        run.facts({**facts} if facts else {})
    if facts:
        call.report(*_figures(facts, call.config.export), see=out / "README.md")
    else:
        call.report("no bundle (export.enabled is false)", see=out / CONFIG)


def _write(call: Call[ExportModelConfig], out: Path, *, overridden: bool) -> "BundleFacts":
    """Write the bundle; facts for the run record."""
    fix_threads(call.config.threads)
    with importing():
        import torch

        from plumbline.export.bundle import write_bundle
        from plumbline.export.plan import BundleSource
        from plumbline.loading.cache_reader import TrainingCache
        from plumbline.models.stored import ADAPTERS, load_model

    torch.set_num_threads(call.config.threads)
    model = paths.finetuned(call.key)
    source = BundleSource(
        stored=load_model(model),
        cache=TrainingCache(paths.cache(call.config.data)),
        training=read_json(model / "config.json"),
        threads=call.config.threads,
        adapters=model / ADAPTERS if (model / ADAPTERS).is_dir() else None,
        provenance=describe_provenance(f"{SPEC.name}@{call.key}", _inputs(call, overridden)),
    )
    return write_bundle(source, call.config.export, out)


def _inputs(call: Call[ExportModelConfig], overridden: bool) -> dict[Name, Path]:
    """What the stage depends on in dvc.yaml."""
    inputs: dict[Name, Path] = {
        "data": paths.cache(call.config.data),
        "settings": paths.settings(SPEC.name, call.key),
        "code": paths.code(SPEC.name, call.config.kind),
        "model": paths.finetuned(call.key),
    }
    if overridden:
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
