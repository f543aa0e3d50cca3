"""Scene i depends on (seed, i) alone, and is drawn as it is described."""

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from plumbline.sources import scenes
from plumbline.sources.scene_text import CELLS, COLORS, SceneObject
from plumbline.sources.scenes import (
    SCHEMA,
    Row,
    Scene,
    ScenesConfig,
    draw_scene,
    read_scenes,
    sample_scene,
    scene_rows,
)

CONFIG = ScenesConfig(images=30, image_size=16, faulty_share=0.0)


def rows_of(config: ScenesConfig) -> list[Row]:
    return [row for batch in read_scenes(config) for row in batch.to_pylist()]


def test_a_scene_is_the_same_alone_and_in_any_longer_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = rows_of(CONFIG)
    monkeypatch.setattr(scenes, "SCENES_PER_BATCH", 7)
    longer = rows_of(CONFIG.model_copy(update={"images": 40}))
    assert longer[: len(short)] == short
    per_scene = CONFIG.captions_per_image + 5
    assert [{**row} for row in scene_rows(CONFIG, 17)] == short[17 * per_scene : 18 * per_scene]


def test_the_seed_and_the_index_both_change_a_scene() -> None:
    pictures = {
        scene_rows(CONFIG.model_copy(update={"seed": seed}), index)[0]["image"]
        for seed in (0, 1)
        for index in (0, 1)
    }
    assert len(pictures) == 4


def test_rows_have_the_canonical_columns_and_unique_ids() -> None:
    batches = list(read_scenes(CONFIG))
    assert all(batch.schema.equals(SCHEMA) for batch in batches)
    rows = rows_of(CONFIG)
    assert len(rows) == 30 * (4 + 5)
    assert len({row["sample_id"] for row in rows}) == len(rows)
    assert len({row["group"] for row in rows}) == 30
    for row in rows:
        assert (row["caption"] is None) == (row["question"] is not None)
        assert (row["question"] is None) == (row["answer"] is None)
    assert all(len({r["image"] for r in rows if r["group"] == g}) == 1 for g in ("scene-0000003",))


def test_about_one_row_in_a_hundred_is_faulty_and_the_others_are_untouched() -> None:
    sound = ScenesConfig(images=1000, image_size=16, faulty_share=0.0)
    faulty = sound.model_copy(update={"faulty_share": 0.01})
    differing, kinds, rows = 0, set(), 0
    for index in range(1000):
        before, after = scene_rows(sound, index), scene_rows(faulty, index)
        for one, other in zip(before, after, strict=True):
            rows += 1
            if one != other:
                differing += 1
                (field,) = [name for name in one if one[name] != other[name]]
                kinds.add(field)
    assert rows == 9000
    assert abs(differing - 90) <= 3 * (9000 * 0.01 * 0.99) ** 0.5
    assert kinds == {"caption", "answer", "image", "sample_id"}


def test_objects_lie_in_cells_of_their_own_and_no_two_are_alike() -> None:
    config = ScenesConfig(object_weights=[0.2, 0.3, 0.5])
    counts = [0, 0, 0]
    for index in range(600):
        objects = sample_scene(config, index).objects
        counts[len(objects) - 1] += 1
        assert len({o.cell for o in objects}) == len(objects)
        assert len({(o.color, o.shape) for o in objects}) == len(objects)
    for count, share in zip(counts, config.object_weights, strict=True):
        assert abs(count - 600 * share) <= 3 * (600 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "cross"])
@pytest.mark.parametrize("cell", CELLS)
def test_an_object_is_drawn_in_its_cell_and_color(shape: str, cell: str) -> None:
    thing = SceneObject("large", "red", shape, cell)
    scene = Scene((thing,), np.random.Generator(np.random.Philox(3)))
    pixels = np.asarray(draw_scene(scene, 48)).astype(int)
    red = np.abs(pixels - np.array(COLORS["red"])).max(axis=-1) < 40
    rows, columns = np.nonzero(red)
    row, column = divmod(CELLS.index(cell), 3)
    assert red.sum() > 40
    assert row * 16 <= rows.mean() < row * 16 + 16
    assert column * 16 <= columns.mean() < column * 16 + 16


def test_large_objects_cover_more_than_small_ones() -> None:
    def area(size: str) -> int:
        thing = SceneObject(size, "white", "circle", "center")
        scene = Scene((thing,), np.random.Generator(np.random.Philox(3)))
        return int((np.asarray(draw_scene(scene, 48)).min(axis=-1) > 215).sum())

    assert area("large") > 1.5 * area("small") > 0


def test_pictures_are_png_without_metadata() -> None:
    data = scene_rows(CONFIG, 0)[0]["image"]
    assert isinstance(data, bytes)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (16, 16), {})


@pytest.mark.parametrize("weights", [[0.0, 0.0], [-1.0, 2.0], [], [1.0] * 4])
def test_weights_that_make_no_scene_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValidationError, match="object_weights"):
        ScenesConfig(object_weights=weights)
