"""However images lie in a cache, batches are what each image alone would become, bit for bit."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plumbline.data.images import decode_image
from plumbline.errors import CheckpointError
from plumbline.files import dump_json, write_digests
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.classification.train import collate
from plumbline.loading import transforms
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.cached_images import CachedImages, where_they_lie
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import build_input
from plumbline.loading.kept_memory import KeptMemory
from plumbline.loading.loader import Loader
from plumbline.loading.loader_config import LoaderConfig
from plumbline.loading.random import keyed_generator
from plumbline.loading.transforms import Draws, augment_images, normalize_images
from tests.tiny import make_cache, picture, write_rows

SEED, COUNT, SIDE = 7, 11, 16
MODES: dict[str, dict[str, Any]] = {
    "rgb": {"preset": "imagenet"},
    "gray": {"preset": None, "mean": [0.4], "std": [0.3]},
}
AUGMENTS: dict[str, dict[str, float]] = {
    "plain": {},
    "cropped": {"enlarge": 4, "flip": 0.5},
    "padded and recoloured": {"padding": 2, "flip": 0.5, "brightness": 0.4, "contrast": 0.3},
}
STORES = {"decoded": {}, "encoded": {"decoded_gb": 0.0}}


def cache_of(folder: Path, **settings: Any) -> TrainingCache:
    (folder / "clean").mkdir()
    rows = [
        {"sample_id": str(at), "image": picture(at, SIDE, SIDE), "label": "ab"[at % 2]}
        for at in range(COUNT)
    ]
    write_rows(folder / "clean", "train", rows)
    made: TrainingCache = make_cache(folder, settings)
    return made


def one_by_one(mode: str, config: ImageInputConfig, size: int) -> Tensor:
    """Pixel values [images, channels, size, size] of the files, each decoded and changed alone."""
    values = []
    for at in range(COUNT):
        image = decode_image(picture(at, SIDE, SIDE), "RGB" if mode == "rgb" else "L")
        pixels = torch.from_numpy(np.array(image)).view(1, SIDE, SIDE, -1)
        random = keyed_generator(SEED, "augment", 0, at)
        drawn = Draws.of(config.augment, [random])
        # [1, channels, height, width], as it would lie if it were the only one there is
        planes = pixels.permute(0, 3, 1, 2).contiguous()
        changed = augment_images(planes, config.augment, size, drawn)
        values.append(normalize_images(changed, config.normalize))
    return torch.cat(values)


def loaded(cache: TrainingCache, config: ImageInputConfig, size: int, **settings: Any) -> Tensor:
    """The same, as a training's loader gives them in three batches."""
    inputs = build_input(config, cache, image_size=size)
    rows = LabelledRows(cache, "train", inputs, "image", [""])
    raw = settings.pop("raw", False)
    bound = partial(collate, inputs=inputs, parts=[""], seed=SEED, training=True, raw=raw)
    settings = {"batch_size": 4, "drop_last": False} | settings
    loader = Loader(rows, bound, LoaderConfig(**settings), seed=SEED, shuffle=False)
    found = [batch["inputs"]["pixel_values"] for batch in loader.batches(0)]
    return torch.cat([each.finish() if raw else each.clone() for each in found])


@pytest.mark.parametrize("size", [SIDE, 12], ids=["as stored", "resized"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_what_each_image_alone_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, store: str, size: int
) -> None:
    cache = cache_of(tmp_path, image_mode=mode, **STORES[store])
    for augment in AUGMENTS.values():
        config = ImageInputConfig.model_validate(
            {"modality": "image", "normalize": MODES[mode], "augment": augment}
        )
        expected = one_by_one(mode, config, size)
        values = expected[0].numel()
        for part in (1, 3 * values, 1 << 18):  # images that are finished together: 1, 2, all
            monkeypatch.setattr(transforms, "PART_VALUES", part)
            assert torch.equal(loaded(cache, config, size), expected)
        assert torch.equal(loaded(cache, config, size, raw=True), expected)


@pytest.mark.parametrize("workers", [1, 4])
def test_loader_processes_give_the_same_batches(tmp_path: Path, workers: int) -> None:
    config = ImageInputConfig.model_validate(
        {"modality": "image", "augment": AUGMENTS["padded and recoloured"]}
    )
    found = loaded(cache_of(tmp_path), config, SIDE, workers=workers)
    assert torch.equal(found, one_by_one("rgb", config, SIDE))


@pytest.mark.parametrize("store", STORES)
def test_values_are_laid_as_layers_were_always_given_them(tmp_path: Path, store: str) -> None:
    """Layers choose how they compute by strides, so these belong to the bits of a training."""
    gray, rgb = tmp_path / "gray", tmp_path / "rgb"
    for folder, mode, strides in (
        (gray, "gray", (SIDE**2, 1, SIDE, 1)),
        (rgb, "rgb", (3 * SIDE**2, SIDE**2, SIDE, 1)),
    ):
        folder.mkdir()
        cache = cache_of(folder, image_mode=mode, **STORES[store])
        config = ImageInputConfig.model_validate({"modality": "image", "normalize": MODES[mode]})
        made = build_input(config, cache, image_size=SIDE)
        for numbers in (np.arange(5), np.arange(1)):
            batch = made.collate(made.fetch_all(numbers), numbers.tolist(), None)
            assert batch["pixel_values"].stride() == strides
            batch = made.collate_raw(made.fetch_all(numbers), numbers.tolist(), None)
            assert batch["pixel_values"].finish().stride() == strides


def test_the_file_holds_the_planes_of_one_image_after_the_other(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    pixels = [np.asarray(decode_image(picture(at, SIDE, SIDE))) for at in range(COUNT)]
    planes = np.stack([each[..., channel] for each in pixels for channel in range(3)])
    assert (cache.folder / "images.bin").read_bytes() == planes.tobytes()


def test_an_image_alone_is_read_where_it_lies_and_several_are_copied_at_once(
    tmp_path: Path,
) -> None:
    images = cache_of(tmp_path).images
    lying = where_they_lie(images)
    assert lying is not None
    assert isinstance(images, np.ndarray)
    assert lying.data_ptr() == images.ctypes.data
    found = CachedImages(images, np.array([3, 5, 3]), lying)
    assert found.part(slice(1, 2)).data_ptr() == lying[5].data_ptr()
    memory = KeptMemory(torch.uint8)
    whole = found.pixels(memory)
    place = whole.data_ptr()
    for copied in (whole, found.part(slice(0, 3))):
        assert torch.equal(copied, lying[[3, 5, 3]])
        assert copied.permute(0, 3, 1, 2).is_contiguous()
    del whole, copied
    assert found[:1].pixels(memory).data_ptr() == place


def test_a_cache_of_an_older_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    facts = {name: value for name, value in cache.facts.items() if name != "image_layout"}
    (cache.folder / "cache.json").write_text(dump_json(facts), encoding="utf-8")
    write_digests(cache.folder)
    with pytest.raises(
        CheckpointError,
        match=r"images\.bin: of an older version.*run dvc repro -f tokenize_text@cache",
    ):
        TrainingCache(cache.folder).images  # noqa: B018
