"""Stage `detect_shapes`: what the data looks like, and whether it can be trained on."""

import logging
from collections.abc import Iterator, Sequence

from plumbline import paths
from plumbline.config import Config
from plumbline.files import dump_json, staged_output
from plumbline.shapes.described import Shapes
from plumbline.shapes.detect import ShapesConfig, look_at
from plumbline.shapes.distributed import DISTRIBUTIONS, Distributions
from plumbline.shapes.remarks import describe_distributions
from plumbline.shapes.repeats import describe_repeats
from plumbline.stage import StageSpec, count, each, parse_call
from plumbline.tracking.record import record_run

logger = logging.getLogger(__name__)


class DetectShapesConfig(Config):
    """What the dataset must offer."""

    detect_shapes: ShapesConfig
    """What the clean rows must offer to be worth training on."""
    views: dict[str, list[str]]
    """Those of `validate`, for which distributions are described."""


SPEC = StageSpec(
    name="detect_shapes",
    schema=DetectShapesConfig,
    group="datasets",
    sections=lambda key: {
        "detect_shapes": f"datasets.{key}.detect_shapes",
        "views": f"datasets.{key}.validate.views",
    },
)


def _of_inputs(shapes: Shapes) -> Iterator[str]:
    """What is said of media and texts."""
    if image := shapes.get("image"):
        sizes = image["sizes"]
        images = sum(size["images"] for size in sizes)
        first = f"{sizes[0]['width']} x {sizes[0]['height']} pixels"
        of = first if len(sizes) == 1 else f"{len(sizes):,} sizes, most often {first}"
        yield f"{count(images, 'image')} ({of})"
    if audio := shapes.get("audio"):
        yield count(audio["clips"], "clip")
    if features := shapes.get("features"):
        yield count(features["arrays"], "feature array")
    if texts := shapes.get("texts"):
        yield f"texts of up to {max(t['longest_chars'] for t in texts.values()):,} characters"


def _facts(found: Distributions) -> Iterator[tuple[str, float]]:
    """A few figures for the trackers."""
    for part, labels in found["labels"].items():
        place = f"labels/{part}" if part else "labels"
        yield f"{place}/classes", labels["classes"]
        yield f"{place}/imbalance", labels["imbalance"]
    for part, by_split in found["values"].items():
        if "train" in by_split:
            place = f"values/{part}" if part else "values"
            yield f"{place}/outliers", by_split["train"]["outliers"]


def main(arguments: Sequence[str]) -> None:
    """Write `work/shapes/<dataset>` and `work/distributions/clean/<dataset>`."""
    call = parse_call(SPEC, arguments)
    with (
        record_run(stage=SPEC.name, key=call.key, config=call.plain) as run,
        staged_output(paths.distributions(call.key)) as spread,
        staged_output(paths.shapes(call.key)) as out,
    ):
        config = call.config
        shapes, found = look_at(paths.clean(call.key), config.detect_shapes, config.views)
        # Not in `out`, which stages behind this one read: figures for people shall not rerun them.
        (spread / DISTRIBUTIONS).write_text(dump_json(found), encoding="utf-8")
        call.store(spread)
        (out / "shapes.json").write_text(dump_json(shapes), encoding="utf-8")
        call.store(out, without=("views",))
        run.facts({f"rows/{split}": rows for split, rows in shapes["rows"].items()})
        run.facts(dict(_facts(found)))
    for line in (*describe_repeats(shapes), *describe_distributions(found)):
        logger.warning("%s: %s", call.key, line)
    rows = shapes["rows"]
    call.report(
        count(sum(rows.values()), "row") + each(rows),
        *_of_inputs(shapes),
        *(
            f"{count(len(labels['classes']), 'class', 'classes')}{f' of {part}' if part else ''}"
            for part, labels in shapes.get("labels", {}).items()
        ),
        see=paths.shapes(call.key) / "shapes.json",
    )
