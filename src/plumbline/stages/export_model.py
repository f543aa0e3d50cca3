"""Stage `export_model`: a task's model as a bundle that runs by itself."""

from collections.abc import Sequence

from pydantic import create_model

from plumbline import paths
from plumbline.errors import ConfigError
from plumbline.kind import KINDS
from plumbline.stage import StageSpec, parse_call
from plumbline.stages.export_stage import ExportPlaces, ExportStageConfig, run_export_stage


class ExportModelConfig(ExportStageConfig):
    """What is exported of a task."""

    kind: str
    """The kind of work, which decides what the sections may hold."""


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
    places = ExportPlaces(
        model=paths.finetuned(call.key),
        code=paths.code(SPEC.name, call.config.kind),
        out=paths.export(call.key),
        overridden=len(arguments) > 1,
    )
    run_export_stage(call, places)
