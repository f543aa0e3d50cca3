"""Source `scenes`: drawings of a few objects, with captions and questions that need the image.

Scene i is a pure function of (seed, i), so any shard can be made alone and a longer dataset begins
with the shorter one.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.random import Generator, Philox
from PIL import Image, ImageDraw
from pydantic import Field, field_validator
from typing_extensions import override

from plumbline.config import Config
from plumbline.sources import scene_text
from plumbline.sources.base import Piece, Source, cut_numbers
from plumbline.sources.scene_text import CELLS, COLORS, SHAPES, SIZES, SceneObject

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("group", pa.string()),
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)

SCENES_PER_BATCH = 500
SUPERSAMPLING = 4
"""Objects are drawn this many times larger and averaged down: anti-aliased edges."""

RADIUS = {"small": 0.1, "large": 0.155}
"""Half of an object's extent as a share of the image side; jittered by 8 % either way."""

JITTER = 0.035
"""How far a centre lies from the centre of its cell at most, as a share of the image side."""


class ScenesConfig(Config):
    """What the drawings hold; more objects and fewer pixels make the set harder."""

    images: int = Field(5000, ge=10)
    """Drawings that are made; a row is a question or a caption of one."""
    image_size: int = Field(32, ge=16, le=256)
    """Side of the square drawing, in pixels."""
    object_weights: list[float] = Field([0.25, 0.75], min_length=1, max_length=3)
    """How often a scene holds one, two, three objects, relative to each other."""
    captions_per_image: int = Field(4, ge=1, le=8)
    """Captions in other words of each drawing."""
    faulty_share: float = Field(0.01, ge=0.0, le=0.5)
    """Share of rows made faulty on purpose, so that validation has something to find."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Another one gives other drawings; a larger `images` begins with the same ones."""

    @field_validator("object_weights")
    @classmethod
    def _some_weight(cls, weights: list[float]) -> list[float]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("weights must not be negative, and one must be positive")
        return weights


@dataclass(frozen=True)
class Scene:
    """One drawing: its objects and the random stream that everything else about it comes from."""

    objects: tuple[SceneObject, ...]
    random: Generator


def sample_scene(config: ScenesConfig, index: int) -> Scene:
    """Draw the objects of scene `index`: in cells of their own, no two alike."""
    random = Generator(Philox(key=[config.seed, index]))
    weights = np.array(config.object_weights) / sum(config.object_weights)
    count = 1 + int(random.choice(len(weights), p=weights))
    cells = random.choice(len(CELLS), size=count, replace=False)
    objects: list[SceneObject] = []
    for cell in cells:
        while True:
            candidate = SceneObject(
                size=SIZES[random.integers(len(SIZES))],
                color=list(COLORS)[random.integers(len(COLORS))],
                shape=SHAPES[random.integers(len(SHAPES))],
                cell=CELLS[cell],
            )
            # Two objects of one colour and shape could not be told apart in a question.
            if all((o.color, o.shape) != (candidate.color, candidate.shape) for o in objects):
                break
        objects.append(candidate)
    return Scene(tuple(objects), random)


def draw_scene(scene: Scene, image_size: int) -> Image.Image:
    """Render a scene as RGB, [image_size, image_size], on a shaded and grainy background."""
    random = scene.random
    corners = random.integers(95, 176, size=(2, 2, 3), dtype=np.uint8)
    background = Image.fromarray(corners).resize(
        (image_size, image_size), Image.Resampling.BILINEAR
    )
    grain = random.integers(-8, 9, size=(image_size, image_size, 1))
    canvas = Image.fromarray((np.asarray(background) + grain).astype(np.uint8))
    large = image_size * SUPERSAMPLING
    for thing in scene.objects:
        mask = Image.new("L", (large, large))
        _draw_shape(ImageDraw.Draw(mask), thing, random, large)
        mask = mask.resize((image_size, image_size), Image.Resampling.BOX)
        shade = random.integers(-18, 19, size=3)
        color = tuple(int(c) for c in np.clip(np.array(COLORS[thing.color]) + shade, 0, 255))
        canvas.paste(color, mask=mask)
    return canvas


def _draw_shape(
    draw: ImageDraw.ImageDraw, thing: SceneObject, random: Generator, side: int
) -> None:
    row, column = divmod(CELLS.index(thing.cell), 3)
    x, y = ((np.array([column, row]) * 2 + 1) / 6 + random.uniform(-JITTER, JITTER, 2)) * side
    r = RADIUS[thing.size] * random.uniform(0.92, 1.08) * side
    if thing.shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif thing.shape == "square":
        h = r * 0.9
        draw.rectangle((x - h, y - h, x + h, y + h), fill=255)
    elif thing.shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r * 0.9), (x + r, y + r * 0.9)], fill=255)
    else:
        arm = r * 0.36
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=255)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=255)


def encode_png(image: Image.Image) -> bytes:
    """Encode as PNG without metadata, the same bytes each time."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


Row = dict[str, str | bytes | None]


def scene_rows(config: ScenesConfig, index: int) -> list[Row]:
    """All rows of scene `index`: its captions, then its questions with answers."""
    scene = sample_scene(config, index)
    picture = encode_png(draw_scene(scene, config.image_size))
    common: Row = {
        "group": f"scene-{index:07d}",
        "image": picture,
        "caption": None,
        "question": None,
        "answer": None,
    }
    rows: list[Row] = []
    for number in range(config.captions_per_image):
        text = scene_text.caption(scene.objects, scene.random)
        rows.append({**common, "sample_id": f"scene-{index:07d}-c{number}", "caption": text})
    for number, (question, answer) in enumerate(
        scene_text.questions(scene.objects, len(config.object_weights), scene.random)
    ):
        rows.append(
            {
                **common,
                "sample_id": f"scene-{index:07d}-q{number}",
                "question": question,
                "answer": answer,
            }
        )
    return [_spoil(row, rows[0], config.faulty_share, scene.random) for row in rows]


def _spoil(row: Row, first: Row, share: float, random: Generator) -> Row:
    """Make a row faulty with probability `share`: empty text, cut image, or an id used before."""
    spoilt, kind = random.random() < share, random.integers(3)
    if not spoilt:
        return row
    if kind == 0:
        return {**row, "caption": ""} if row["caption"] else {**row, "answer": " "}
    if kind == 1:
        picture = row["image"]
        assert isinstance(picture, bytes)
        return {**row, "image": picture[: len(picture) // 2]}
    return {**row, "sample_id": first["sample_id"]} if row is not first else {**row, "caption": ""}


def read_scenes(config: ScenesConfig, scenes: range | None = None) -> Iterator[pa.RecordBatch]:
    """Yield scenes, by default all, in batches of `SCENES_PER_BATCH`; columns as in `SCHEMA`."""
    scenes = range(config.images) if scenes is None else scenes
    for start in range(scenes.start, scenes.stop, SCENES_PER_BATCH):
        stop = min(start + SCENES_PER_BATCH, scenes.stop)
        rows = [row for index in range(start, stop) for row in scene_rows(config, index)]
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


class ScenesSource(ScenesConfig, Source):
    """The embedded drawings, chosen by `source: scenes`."""

    source: Literal["scenes"]

    @property
    def given_splits(self) -> list[str]:
        """None: the drawings are split by hash."""
        return []

    @property
    @override
    def rows_bring_splits(self) -> bool:
        return False

    def read(self, path: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows; `path` is not read: the drawings are made, not found."""
        return read_scenes(self)

    @override
    def pieces(self, path: Path) -> Iterator[Piece] | None:
        return cut_numbers(self.images, SCENES_PER_BATCH)

    @override
    def read_piece(self, path: Path, piece: Piece) -> Iterator[pa.RecordBatch]:
        assert isinstance(piece, range), "as it was cut"
        yield from read_scenes(self, piece)
