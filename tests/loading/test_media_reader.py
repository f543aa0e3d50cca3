"""Media that lie encoded in shards are read as the decoded ones of another cache."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from PIL import Image

from plumbline.data.media_shards import SUFFIX
from plumbline.data.resizing import Resize
from plumbline.errors import CheckpointError, DamagedInputError
from plumbline.files import read_json
from plumbline.loading import digest_check
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import AudioInputConfig, ImageInputConfig
from plumbline.loading.inputs import build_input
from plumbline.loading.media_reader import EncodedImages
from plumbline.loading.order import by_window
from plumbline.report.pictures import Pictures
from plumbline.report.sounds import Sounds
from tests.tiny import RATE, Row, clip, make_cache, picture, write_rows

SHARD_MB = 3e-3
"""Some three of the tiny images, and one of the clips."""
ENCODED = {"decoded_gb": 0.0, "shard_mb": SHARD_MB}


def photo(seed: int, height: int, width: int) -> bytes:
    """A JPEG whose pixels are no noise."""
    slopes = default_rng(seed).uniform(0, 9, 3)
    pixels = np.add.outer(np.arange(height), np.arange(width))[..., None] * slopes % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def caches_of(folder: Path, rows: list[Row], **settings: Any) -> tuple[TrainingCache, ...]:
    """The cache of some rows with decoded media, and with encoded ones."""
    made = []
    for name, more in (("decoded", {}), ("encoded", ENCODED)):
        (folder / name / "clean").mkdir(parents=True)
        write_rows(folder / name / "clean", "train", rows)
        made.append(make_cache(folder / name, settings | more))
    return tuple(made)


PHOTOS = [{"sample_id": str(at), "image": photo(at, 40 + at, 52)} for at in range(9)]
PICTURES = [{"sample_id": str(at), "image": picture(at)} for at in range(12)]
CLIPS = [{"sample_id": str(at), "audio": clip(at)} for at in range(9)]
CROPPED = {"resample": "lanczos", "keep_ratio": True, "crop": 0.8}
FORMS: dict[str, tuple[list[Row], dict[str, Any], str]] = {
    "as they are": (PICTURES, {}, "source"),
    "gray": (PICTURES, {"image_mode": "gray"}, "source"),
    "enlarged": (PICTURES, {"image_size": [24, 20]}, "source"),
    "reduced a little": (PHOTOS, {"image_size": [32, 32]}, "source"),
    "reduced and cut": (PHOTOS, {"image_size": [32, 32], "image_resize": CROPPED}, "source"),
    "of much larger ones": (PHOTOS, {"image_size": [16, 16]}, "png"),
    "of much larger ones, cut": (PHOTOS, {"image_size": [16, 16], "image_resize": CROPPED}, "png"),
    "of much larger ones, gray": (PHOTOS, {"image_size": [16, 16], "image_mode": "gray"}, "png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_encoded_images_are_the_decoded_ones(tmp_path: Path, form: str) -> None:
    rows, settings, kept_as = FORMS[form]
    decoded, encoded = caches_of(tmp_path, rows, **settings)
    assert encoded.facts["image_shards"]["form"] == kept_as
    assert not (encoded.folder / "images.bin").exists()
    shards = len(list(encoded.folder.glob(f"images.*{SUFFIX}")))
    assert shards == len(encoded.facts["image_shards"]["starts"])
    assert shards > 1 or kept_as == "png"  # of which some are too small
    how = {"image_shards": 0, "image_layout": 0}
    assert {**encoded.facts, **how} == {**decoded.facts, **how}
    one, other = decoded.images, encoded.images
    assert isinstance(other, EncodedImages)
    assert other.shape == one.shape
    assert len(other) == len(one)
    for wanted in (slice(None), slice(2, 7, 2), [5, 0, 5], np.array([3, 1], np.int32), []):
        assert np.array_equal(other[wanted], one[wanted])
        assert other[wanted].dtype == np.uint8
    for number in (0, len(one) - 1, np.int64(4)):
        assert np.array_equal(other[int(number)], one[int(number)])
    with pytest.raises(IndexError, match=f"image {len(one)} of {len(one)}"):
        other[len(one)]


def test_encoded_clips_are_the_decoded_ones(tmp_path: Path) -> None:
    decoded, encoded = caches_of(tmp_path, CLIPS, sample_rate=16_000)
    assert not (encoded.folder / "audio.bin").exists()
    assert len(encoded.facts["audio"]["shards"]["starts"]) > 1
    said = {**encoded.facts["audio"]}
    del said["shards"]
    assert said == decoded.facts["audio"]
    assert np.array_equal(encoded.lengths("audio"), decoded.lengths("audio"))
    for number in range(len(CLIPS)):
        assert np.array_equal(encoded.audio(number), decoded.audio(number))


def test_a_medium_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    rows = [{"sample_id": str(at), "image": picture(at, 16 + 40 * (at == 1), 16)} for at in (0, 1)]
    rows.append({"sample_id": "2", "image": picture(2)})
    decoded, encoded = caches_of(tmp_path, rows, image_size=[16, 16])
    assert encoded.facts["image_shards"]["starts"] == [0, 1, 2]
    assert np.array_equal(encoded.images[:], decoded.images[:])


@pytest.mark.parametrize(
    ("decoded_gb", "encoded"),
    [(None, False), (32.0, False), (12 * 768 / 2**30, False), (11.9 * 768 / 2**30, True)],
)
def test_media_stay_encoded_above_the_limit_alone(
    tmp_path: Path, decoded_gb: float | None, encoded: bool
) -> None:
    (tmp_path / "clean").mkdir()
    write_rows(tmp_path / "clean", "train", PICTURES)
    cache = make_cache(tmp_path, {"decoded_gb": decoded_gb})
    assert ("image_shards" in cache.facts) is encoded
    assert (tmp_path / "cache/images.bin").exists() is not encoded


def test_inputs_make_the_same_of_encoded_media(tmp_path: Path) -> None:
    images = ImageInputConfig(modality="image")
    sounds = AudioInputConfig(modality="audio", sample_rate=RATE, n_mels=8, fft=256)
    for config, rows, settings in ((images, PICTURES, {}), (sounds, CLIPS, {"sample_rate": RATE})):
        batches = []
        for cache in caches_of(tmp_path / config.modality, rows, **settings):
            made = build_input(config, cache, image_size=16, cache_bytes=1 << 20)
            for _ in range(2):  # the second time from memory
                batches.append(made.collate(made.fetch_all(np.arange(7)), [*"abcdefg"], None))
        for batch in batches[1:]:
            for name, values in batch.items():
                assert torch.equal(values, batches[0][name])


def test_decoded_images_are_kept_where_there_is_memory_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = caches_of(tmp_path, PICTURES)
    decoded = count_calls(monkeypatch, "plumbline.data.images.decode_image")
    inputs = build_input(
        ImageInputConfig(modality="image"), encoded, image_size=16, cache_bytes=1 << 20
    )
    for _ in range(2):
        inputs.collate(inputs.fetch_all(np.arange(4)), [*"abcd"], None)
    assert decoded() == 4


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], int]:
    from plumbline.data import images

    calls, real = [], images.decode_image

    def counted(*args: Any, **kwargs: Any) -> Image.Image:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(name, counted)
    return lambda: len(calls)


def test_the_report_shows_the_same_of_encoded_media(tmp_path: Path) -> None:
    decoded, encoded = (cache.folder for cache in caches_of(tmp_path / "i", PICTURES))
    assert Pictures(encoded, 64).uri(3) == Pictures(decoded, 64).uri(3)
    decoded, encoded = (cache.folder for cache in caches_of(tmp_path / "a", CLIPS))
    assert Sounds(encoded, 1.0).clip(3) == Sounds(decoded, 1.0).clip(3)


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("rows", [PICTURES, CLIPS], ids=["images", "clips"])
def test_a_shard_that_is_gone_or_cut_is_named(tmp_path: Path, rows: list[Row], damage: str) -> None:
    _, encoded = caches_of(tmp_path, rows)
    name = "images" if rows is PICTURES else "audio"
    shard = encoded.folder / f"{name}.00001{SUFFIX}"
    shard.write_bytes(shard.read_bytes()[:-1])
    if damage == "missing":
        shard.unlink()
    shards = encoded.shards(name.removesuffix("s"), np.arange(len(rows)))
    assert shards is not None
    last = int(np.flatnonzero(shards.of_sample == 1)[-1])
    with pytest.raises(CheckpointError, match=rf"{name}\.00001\.shard: missing or cut short"):
        encoded.images[last] if rows is PICTURES else encoded.audio(last)


def test_damaged_shards_are_told_before_and_after_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = caches_of(tmp_path, PICTURES)
    folder = shutil.copytree(encoded.folder, tmp_path / "damaged")
    shard = folder / f"images.00000{SUFFIX}"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CheckpointError, match=r"images\.00000\.shard"):
        TrainingCache(folder)
    monkeypatch.setattr(digest_check, "LARGE_BYTES", 1 << 40)  # shards are not waited for anyway
    opened = TrainingCache(folder, confirm_later=True)
    with pytest.raises(DamagedInputError, match=r"image 0 cannot be decoded any more"):
        opened.images[0]
    with pytest.raises(DamagedInputError, match=r"images\.00000\.shard"):
        opened.confirm()


def test_an_epoch_reads_a_few_shards_at_a_time() -> None:
    shards = np.repeat(np.arange(10), 7)
    order = by_window(default_rng(0).permutation(70), shards, 3, default_rng(1))
    assert sorted(order.tolist()) == list(range(70))
    windows = [shards[order[at : at + 21]] for at in range(0, 70, 21)]
    assert [len(set(window.tolist())) for window in windows] == [3, 3, 3, 1]
    # Within a window the shards are mixed: next to nothing stands behind its neighbour.
    assert max(np.count_nonzero(np.diff(window) == 0) for window in windows[:-1]) < 14
    assert not np.array_equal(order[:21], np.sort(order[:21]))


def test_nothing_is_sorted_where_one_window_holds_all_shards() -> None:
    order = default_rng(0).permutation(70)
    shards = np.repeat(np.arange(10), 7)
    assert np.array_equal(by_window(order, shards, 10, default_rng(1)), order)


def test_the_resize_of_reduced_images_is_still_told(tmp_path: Path) -> None:
    _, encoded = caches_of(tmp_path, PHOTOS, image_size=[16, 16], image_resize=CROPPED)
    assert encoded.image_resize == Resize.model_validate(CROPPED)
    assert read_json(encoded.folder / "cache.json")["image_shards"]["form"] == "png"
