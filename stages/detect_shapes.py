"""Stage `detect_shapes`: what the data looks like, and whether it can be trained on."""

from collections.abc import Sequence

from plumbline import paths
from plumbline.config import Config
from plumbline.files import dump_json, staged_output
from plumbline.shapes.detect import ShapesConfig, detect_shapes
from plumbline.stage import StageSpec, parse_call, run_stage
from plumbline.tracking.record import record_run


class DetectShapesConfig(Config):
    """What the dataset must offer."""

    detect_shapes: ShapesConfig


SPEC = StageSpec(
    name="detect_shapes",
    schema=DetectShapesConfig,
    group="datasets",
    sections=lambda key: {"detect_shapes": f"datasets.{key}.detect_shapes"},
)


def main(arguments: Sequence[str]) -> None:
    """Write `work/shapes/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.shapes(call.key)) as out,
    ):
        shapes = detect_shapes(paths.clean(call.key), call.config.detect_shapes)
        (out / "shapes.json").write_text(dump_json(shapes), encoding="utf-8")
        run.facts({f"rows/{split}": count for split, count in shapes["rows"].items()})


if __name__ == "__main__":
    run_stage(main)
