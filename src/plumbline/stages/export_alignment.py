"""Stage `export_alignment`: an alignment as a bundle that finds media by texts, and texts by media.

It runs for every alignment, in a second where none is wanted: most are the start of a task, whose
bundle has their encoder.
"""

from collections.abc import Sequence

from pydantic import create_model

from plumbline import paths
from plumbline.kind import ALIGNMENT
from plumbline.stage import StageSpec, parse_call
from plumbline.stages.export_stage import ExportPlaces, ExportStageConfig, run_export_stage

_SECTION = ALIGNMENT.settings.export
assert _SECTION is not None

SPEC = StageSpec(
    name="export_alignment",
    schema=create_model(
        "ExportAlignmentConfig", __base__=ExportStageConfig, export=(_SECTION, _SECTION())
    ),
    roles=("settings", "model", "export"),
    group="align",
    sections=lambda key: {
        "threads": "threads",
        "data": f"align.{key}.data",
        "export": f"align.{key}.export",
    },
)


def main(arguments: Sequence[str]) -> None:
    """Write `exports/align/<name>`."""
    call = parse_call(SPEC, arguments)
    places = ExportPlaces(
        model=paths.aligned(call.key),
        code=paths.code(SPEC.name),
        out=paths.alignment_export(call.key),
        overridden=len(arguments) > 1,
    )
    run_export_stage(call, places)
