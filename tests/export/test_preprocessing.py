"""The bundle's preprocessing against that of training and evaluation, bit for bit."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import plumbline
from plumbline.data.images import decode_image, resize_image
from plumbline.export.bundled_code import COMMON_CODE
from plumbline.export.plan import READERS
from plumbline.export.runtime.files import InputError, TooLargeError
from plumbline.export.runtime.pixel_values import Preprocessor
from plumbline.kinds.vlm.runtime import VlmTask
from plumbline.loading.transform_config import STATISTICS, Normalization
from plumbline.loading.transforms import normalize_images
from tests.export.opening import model_of


def encode(image: Image.Image, format: str = "PNG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    if format == "GIF":
        image.save(buffer, format)
    else:
        image.save(buffer, format, exif=exif)
    return buffer.getvalue()


def pictures(count: int) -> Iterator[bytes]:
    """Images of many sizes in every mode and format, one of eight orientations each."""
    random = np.random.default_rng(0)
    for number in range(count):
        height, width = (int(v) for v in random.integers(9, 90, size=2))
        pixels = random.integers(0, 256, size=(height, width, 4), dtype=np.uint8)
        rgba = Image.fromarray(pixels)
        gray16 = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) | pixels[..., 1])
        made = [
            (rgba.convert("RGB"), "PNG"),
            (rgba.convert("RGB"), "JPEG"),
            (rgba.convert("L"), "PNG"),
            (rgba.convert("L"), "JPEG"),
            (rgba, "PNG"),
            (rgba, "WEBP"),
            (gray16, "PNG"),
            (rgba.convert("LA"), "PNG"),
            (rgba.convert("RGB").quantize(16), "PNG"),
            (rgba.convert("RGB").quantize(16), "GIF"),
            (rgba.convert("1"), "PNG"),
            (rgba.convert("CMYK"), "JPEG"),
            (gray16, "TIFF"),
            (rgba, "AVIF"),
            (rgba.quantize(16), "PNG"),
            (rgba, "TIFF"),
        ]
        image, format = made[number % len(made)]
        yield encode(image, format, orientation=1 + number % 8)


def preprocessor(max_bytes: int = 1 << 20, **other: object) -> Preprocessor:
    mean, std = STATISTICS["imagenet"]
    size = {"height": 32, "width": 32, "resize": "bicubic"}
    contract = {"mean": list(mean), "std": list(std), **size, **other}
    return Preprocessor(contract, {"max_bytes": max_bytes, "max_image_pixels": 10_000})


def test_a_hundred_images_of_all_kinds_become_the_same_pixels() -> None:
    ours = preprocessor()
    normalization = Normalization(preset="imagenet")
    for data in pictures(104):
        resized = resize_image(decode_image(data), 32, 32)
        images = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        expected = normalize_images(images, normalization)[0].numpy()
        got = ours.pixel_values(data)
        assert got.dtype == np.float32
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("preset", sorted(STATISTICS))
def test_every_level_of_every_preset_is_normalised_alike(preset: str) -> None:
    mean, std = STATISTICS[preset]
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3)
    image = encode(Image.fromarray(levels))
    ours = preprocessor(mean=mean, std=std, height=16, width=16)
    pixels = torch.from_numpy(levels).permute(2, 0, 1)[None]
    expected = normalize_images(pixels, Normalization(preset=preset))[0].numpy()  # type: ignore[arg-type]
    assert ours.pixel_values(image).tobytes() == expected.tobytes()


def test_one_channel_of_statistics_makes_one_channel_of_luma() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ours = preprocessor(mean=[0.5], std=[0.25], height=16, width=16)
    got = ours.pixel_values(encode(Image.fromarray(pixels)))
    assert got.shape == (1, 16, 16)
    np.testing.assert_allclose(got[0], (pixels / 255 - 0.5) / 0.25, atol=1e-6)


def test_a_bundle_decodes_with_the_files_of_training(bundle: Path) -> None:
    core = Path(plumbline.__file__).parents[1]
    for name in (*COMMON_CODE, *READERS["image"]):
        if "/data/" not in name:
            continue  # what is not of training
        ours = core / name
        assert (bundle / "runtime" / ours.name).read_bytes() == ours.read_bytes()
    for script in (bundle / "runtime").glob("*.py"):
        assert not re.search(r"^\s*(from|import) plumbline", script.read_text("utf-8"), re.M)


def test_limits_hold_before_pixels_are_decoded() -> None:
    ours = preprocessor(max_bytes=5000)
    with pytest.raises(TooLargeError, match=r"^image: 6000 bytes, allowed are 5000$"):
        ours.decode(bytes(6000))
    bomb = encode(Image.new("L", (20_000, 20_000)).resize((101, 100)))
    with pytest.raises(
        TooLargeError, match=r"^image: PNG of 101 x 100 pixels, allowed are 10000 pixels$"
    ):
        ours.decode(bomb)


@pytest.mark.parametrize("data", [b"", b"no image", encode(Image.new("RGB", (50, 50)))[:-40]])
def test_what_is_no_image_is_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^image: [^\n]+$"):
        preprocessor().decode(data)


def test_text_becomes_the_ids_that_the_cache_has(bundle: Path, scenes_cache: Path) -> None:
    from plumbline.loading.cache_reader import TrainingCache

    cache, model = TrainingCache(scenes_cache), model_of(bundle).task
    assert isinstance(model, VlmTask)
    bos = model.contract["text"]["special_ids"]["bos"]
    for number in range(cache.facts["texts"]):
        expected = [*cache.ids(number)[:24].tolist(), bos]
        assert model.prompt_ids(cache.text(number)) == expected
    assert len(model.prompt_ids("<eos> <pad>")) > 3  # what a person types is text


@pytest.mark.parametrize("question", ["", "  ", "x" * 10_001, "\ud800"])
def test_a_question_without_use_is_refused(bundle: Path, question: str) -> None:
    with pytest.raises(InputError, match=r"^question: "):
        model_of(bundle).predict({"image": b"", "question": question})
