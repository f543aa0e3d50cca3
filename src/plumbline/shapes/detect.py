"""What a cleaned dataset looks like, from headers, texts, features and labels, row by row.

Images and audio are not decoded, and nothing that grows with the rows is kept in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
from pydantic import Field, field_validator

from plumbline.config import Config
from plumbline.data.columns import CONTENT, SPLITS, TEXTS
from plumbline.data.disk_index import DiskCounter, DiskIndex
from plumbline.data.parquet import column_names, count_rows, iter_table
from plumbline.errors import DataError
from plumbline.scratch import scratch_folder
from plumbline.shapes.batch_media import BatchMedia
from plumbline.shapes.described import Described, Shapes
from plumbline.shapes.distributed import Distributions, Proposed
from plumbline.shapes.distributions import Targets, Views, open_disk
from plumbline.shapes.features import FeatureShapes
from plumbline.shapes.labels import spread_labels
from plumbline.shapes.media import AudioShapes, ImageShapes
from plumbline.shapes.proposals import (
    propose_batch_size,
    propose_class_weights,
    propose_image_size,
)
from plumbline.shapes.repeats import Repeats
from plumbline.shapes.targets import Labels, PartRows, Values
from plumbline.shapes.texts import Answers, Texts
from plumbline.tracking.progress import tracked


class ShapesConfig(Config):
    """Section `detect_shapes` of a dataset: what it must offer to be worth training on."""

    min_train_rows: int = Field(2, ge=1)
    """Fewer rows of the training split than this are refused."""
    max_listed_answers: int = Field(100, ge=1)
    """Answers listed with their counts, most frequent first."""
    classes: dict[str, list[str]] = {}
    """Part -> its classes in order, which the labels must be; the unnamed part is "".

    Parts that are not named have the classes of their training rows.
    """
    features: list[int | None] | None = None
    """[time, channels] of every array of features; null for a time that differs."""

    @field_validator("classes")
    @classmethod
    def _are_classes(cls, classes: dict[str, list[str]]) -> dict[str, list[str]]:
        for part, names in classes.items():
            if len(names) < 2 or len(set(names)) < len(names):
                raise ValueError(f"part {part!r} must name at least two classes, each of them once")
        return classes

    @field_validator("features")
    @classmethod
    def _is_shape(cls, features: list[int | None] | None) -> list[int | None] | None:
        if features is not None:
            good = len(features) == 2 and features[1] is not None
            if not good or any(length is not None and length < 1 for length in features):
                raise ValueError("[time or null, channels] is expected")
        return features


class _Look(Protocol):
    def add(self, split: str, batch: pa.RecordBatch) -> None: ...


class _Probe(_Look, Protocol):
    def describe(self) -> Described: ...


class Looked(NamedTuple):
    """What one look at a dataset says."""

    shapes: Shapes
    """What stages behind this one read."""
    distributions: Distributions
    """What people read."""


def detect_shapes(clean: Path, config: ShapesConfig) -> Shapes:
    """Describe a cleaned dataset: as `look_at`, for those who read the shapes alone."""
    return look_at(clean, config, {}).shapes


def look_at(clean: Path, config: ShapesConfig, views: Mapping[str, Sequence[str]]) -> Looked:
    """Describe a cleaned dataset, and how it is distributed.

    Args:
        clean: folder with `<split>.parquet`.
        config: limits and declarations.
        views: as of `validate`: name -> columns.

    Returns:
        shapes: rows by split; `image.sizes` (height, width in pixels, number of distinct images),
        most frequent first; `audio` and `features`: number and lengths of distinct clips and
        arrays; per text column rows, longest and mean length in characters; answers; by part
        `labels` (classes, counts by split, weights that balance train) and `values` (moments of
        train); and where there are any, `repeated_rows` by split and `contradictions` by part and
        split. distributions: as `Distributions` says.

    Raises:
        DataError: no training split or too few rows in it, a part or a class that cannot be
            learned, arrays of different widths, or data that contradicts a declaration.
    """
    rows = {split: _rows(clean / f"{split}.parquet") for split in SPLITS}
    if rows["train"] < config.min_train_rows:
        raise DataError(
            f"{clean}: {rows['train']} training rows, at least {config.min_train_rows} are needed; "
            f"work/quarantine/{clean.name}/report.json says where rows went"
        )
    shapes: Shapes = {"rows": {split: count for split, count in rows.items() if count}}
    columns = _columns(clean)
    parts = PartRows()
    media = BatchMedia()
    with scratch_folder() as folder, ExitStack() as files:
        seen = files.enter_context(closing(DiskIndex(folder / "media.sqlite")))
        sizes = files.enter_context(closing(DiskCounter(folder / "sizes.sqlite")))
        answers = files.enter_context(closing(DiskCounter(folder / "answers.sqlite")))
        repeats = files.enter_context(closing(Repeats(folder / "rows.sqlite")))
        (folder / "views").mkdir()
        disk = open_disk(folder / "views", media, files)
        spread, targets = Views(views, disk), Targets(disk.values)
        try:
            probes = [*_make_probes(columns, config, _Stores(seen, sizes, answers, media)), repeats]
            looks: list[_Look] = [parts, *probes, spread, targets]
            batches, total = _batches(clean, columns), sum(rows.values())
            for split, batch in tracked(batches, "looking", total, "rows", lambda b: len(b[1])):
                for look in looks:
                    look.add(split, batch)
                media.release()
            parts.check()
            for probe in probes:
                shapes = {**shapes, **probe.describe()}
        except DataError as error:
            raise DataError(f"{clean}: {error}") from None
        found: Distributions = {
            "views": spread.describe(),
            "labels": spread_labels(shapes),
            "values": targets.describe(),
            "proposals": [],
        }
    return Looked(shapes, _complete(found, shapes))


def _complete(found: Distributions, shapes: Shapes) -> Distributions:
    """Add what follows from all that was found."""
    deviations = shapes.get("features", {}).get("std_of_channels", [])
    if still := [number for number, deviation in enumerate(deviations) if deviation == 0.0]:
        found["constant_channels"] = still
    return {**found, "proposals": list(_propose(found, shapes))}


def _propose(found: Distributions, shapes: Shapes) -> Iterator[Proposed]:
    for by_split in found["views"].values():
        columns = by_split["train"]["columns"] if "train" in by_split else {}
        image = columns.get("image") or columns.get("images")
        if image and image["distinct"]:
            yield propose_image_size(image["short_side"])
            break  # one cache serves all views
    yield propose_batch_size(shapes["rows"]["train"])
    for part, labels in found["labels"].items():
        yield propose_class_weights(labels, part)


class _Stores(NamedTuple):
    seen: DiskIndex
    sizes: DiskCounter
    answers: DiskCounter
    media: BatchMedia


def _make_probes(columns: Sequence[str], config: ShapesConfig, stores: _Stores) -> list[_Probe]:
    for name, declared in (("label", config.classes), ("features", config.features)):
        if declared and name not in columns:
            setting = "classes" if name == "label" else name
            raise DataError(f"detect_shapes.{setting} is set, but there is no column {name}")
    by_column: dict[str, _Probe] = {
        "audio": AudioShapes(stores.seen, stores.media),
        "features": FeatureShapes(stores.seen, stores.media, config.features),
        "answer": Answers(config.max_listed_answers, stores.answers),
        "label": Labels(config.classes),
        "value": Values(),
    }
    texts = Texts([name for name in (*TEXTS, "turns") if name in columns])
    probes = [probe for name, probe in by_column.items() if name in columns]
    shows = set(ImageShapes.columns) & set(columns)
    images = [ImageShapes(stores.seen, stores.sizes, stores.media)] if shows else []
    return [texts, *images, *probes]


def _rows(file: Path) -> int:
    return count_rows(file) if file.is_file() else 0


def _columns(clean: Path) -> list[str]:
    """The columns to look at, out of those that the training split has."""
    names = column_names(clean / "train.parquet")
    return [name for name in ("part", *CONTENT) if name in names]


def _batches(clean: Path, columns: Sequence[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    for split in SPLITS:
        file = clean / f"{split}.parquet"
        if file.is_file():
            for batch in iter_table(file, columns):
                yield split, batch
