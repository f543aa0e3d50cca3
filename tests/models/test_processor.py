"""Images are resized as the processor of a checkpoint does it, wherever they are resized."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from timm.data.transforms_factory import create_transform
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    DonutImageProcessor,
    Idefics3ImageProcessor,
    SiglipImageProcessor,
    SmolVLMImageProcessor,
    ViTImageProcessor,
)

from plumbline.asking import read_image
from plumbline.data.images import decode_image, resize_image
from plumbline.data.resizing import Resize
from plumbline.errors import ConfigError
from plumbline.export.media import image_contract
from plumbline.export.runtime.pixel_values import Preprocessor
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.transforms import fit_images, normalize_images
from plumbline.models.encoder_config import TransformersImageConfig
from plumbline.models.processor import read_resize, settle
from plumbline.tokenization.media import ImageFile
from plumbline.tokenization.settings import TokenizeConfig
from plumbline.tokenization.stores import DecodedStore
from plumbline.weights.checkpoint import Checkpoint

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
WHOLE: dict[str, Any] = {"max_image_size": {"longest_edge": SIDE}, "do_image_splitting": False}
PROCESSORS: dict[str, tuple[Any, Resize]] = {
    "siglip": (SiglipImageProcessor(size=SQUARE), Resize()),
    "vit": (ViTImageProcessor(size=SQUARE), Resize(resample="bilinear")),
    "clip": (
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        Resize(keep_ratio=True),
    ),
    "dino": (
        BitImageProcessor(size={"shortest_edge": 37}, crop_size=SQUARE, resample=2),
        Resize(resample="bilinear", keep_ratio=True, crop=SIDE / 37),
    ),
    "smolvlm": (
        SmolVLMImageProcessor(**WHOLE, size={"longest_edge": 75}),
        Resize(resample="lanczos", longest_edge=75),
    ),
    "idefics3": (
        Idefics3ImageProcessor(
            **WHOLE, size={"longest_edge": 20}, resample=5, rescale_factor=1 / 128
        ),
        Resize(resample="hamming", longest_edge=20),
    ),
    "idefics3 in one step": (
        Idefics3ImageProcessor(**WHOLE, do_resize=False),
        Resize(resample="lanczos"),
    ),
    **{
        name: (SiglipImageProcessor(size=SQUARE, resample=number), Resize.model_validate(said))
        for number, name in ((0, "nearest"), (1, "lanczos"), (4, "box"), (5, "hamming"))
        for said in [{"resample": name}]
    },
}
SIZES = [(32, 32), (9, 14), (40, 33), (33, 41), (480, 321), (90, 700)]
"""Heights and widths, smaller and larger than the model's."""
INPUTS = {"modality": "image", "normalize": {"preset": "checkpoint"}, "resize": "checkpoint"}
LIMITS: Any = {"max_bytes": 1 << 24, "max_image_pixels": 10**7}


def picture(height: int, width: int) -> bytes:
    """A PNG with smooth parts and noise."""
    random = np.random.default_rng(height * 1000 + width)
    small = random.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    pixels = np.where(np.arange(width)[:, None] < width // 2, smooth, random.permutation(smooth))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def settled(folder: Path) -> tuple[int, ImageInputConfig]:
    config = TransformersImageConfig(name="transformers")
    inputs = ImageInputConfig.model_validate(INPUTS)
    encoder, found = settle(config, inputs, Checkpoint(folder, {}))
    assert isinstance(encoder, TransformersImageConfig)
    assert isinstance(found, ImageInputConfig)
    return encoder.image_size, found


def prepared(data: bytes, size: int, inputs: ImageInputConfig, folder: Path) -> NDArray[np.float32]:
    """[channels, size, size], which cache, inputs, predict and bundle make alike."""
    image = decode_image(data)
    resize = inputs.settled
    assert resize is not None
    cached = ImageFile(DecodedStore(io.BytesIO()), (size, size), "rgb", resize).decode(data)
    loaded = fit_images(torch.from_numpy(np.array(image))[None], size, resize)
    loaded = loaded.permute(0, 3, 1, 2)
    (folder / "asked.png").write_bytes(data)
    asked = read_image(folder / "asked.png", size, inputs)
    assert np.array_equal(cached, loaded[0].permute(1, 2, 0).numpy())
    assert np.array_equal(cached, asked)
    bundle = Preprocessor(image_contract(size, inputs), LIMITS)  # type: ignore[arg-type]
    found = bundle.pixel_values(data)
    assert np.array_equal(found, normalize_images(loaded, inputs.normalize)[0].numpy())
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_images_become_what_the_processor_makes_of_them(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    processor, expected = PROCESSORS[name]
    processor.save_pretrained(tmp_path)
    side, inputs = settled(tmp_path)
    assert (side, inputs.resize) == (SIDE, expected)
    data = picture(*size)
    found = prepared(data, side, inputs, tmp_path)
    by_pil = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = by_pil(decode_image(data), return_tensors="np")["pixel_values"].squeeze()
    np.testing.assert_allclose(found, theirs, rtol=0, atol=2e-6)
    # The tensors of torchvision, its default, are rounded otherwise: by at most one of 255 levels.
    if expected.resample in ("bilinear", "bicubic"):
        theirs = processor(decode_image(data), return_tensors="np")["pixel_values"][0]
        level = 1 / 255 / min(inputs.normalize.statistics[1])
        np.testing.assert_allclose(found, theirs, rtol=0, atol=level + 2e-6)
        assert np.abs(found - theirs).mean() < level / 10


def test_of_a_strip_the_middle_is_kept_without_the_memory_of_the_whole() -> None:
    pixels = np.zeros((1, 60_000, 3), np.uint8)
    pixels[:, 29_990:30_010] = 255
    found = resize_image(Image.fromarray(pixels), 64, 64, keep_ratio=True)
    assert (found == 255).all()


@pytest.mark.parametrize(
    ("said", "resize"),
    [
        ({"crop_pct": 0.875, "interpolation": "bicubic"}, Resize(keep_ratio=True, crop=32 / 36)),
        (
            {"crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "center"},
            Resize(resample="bilinear", keep_ratio=True, crop=32 / 35),
        ),
        (
            {"crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "squash"},
            Resize(crop=32 / 40),
        ),
        ({"crop_pct": 1.0, "interpolation": "bicubic"}, Resize(keep_ratio=True)),
    ],
)
@pytest.mark.parametrize("size", SIZES[:5])
def test_images_become_what_timm_makes_of_them(
    said: dict[str, Any], resize: Resize, size: tuple[int, int], tmp_path: Path
) -> None:
    statistics = {"input_size": [3, SIDE, SIDE], "mean": [0.1] * 3, "std": [0.2] * 3}
    config = {"pretrained_cfg": statistics | said}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    side, inputs = settled(tmp_path)
    assert (side, inputs.resize) == (SIDE, resize)
    data = picture(*size)
    found = torch.from_numpy(prepared(data, side, inputs, tmp_path))
    theirs: Any = create_transform((3, SIDE, SIDE), mean=(0.1,) * 3, std=(0.2,) * 3, **said)
    resized, *others = theirs.transforms[0](decode_image(data)), *theirs.transforms[2:]
    over = [pixels - SIDE for pixels in resized.size]
    left, top = (pixels // 2 for pixels in over)
    expected = resized.crop((left, top, left + SIDE, top + SIDE))
    for step in others:
        expected = step(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    # Where the middle lies between two pixels, torchvision takes the even one.
    if not any(pixels % 4 == 3 for pixels in over):
        torch.testing.assert_close(found, theirs(decode_image(data)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "processor",
    [
        DonutImageProcessor(),
        ViTImageProcessor(size={"height": 32, "width": 48}),
        ViTImageProcessor(size=SQUARE, do_resize=False),
        CLIPImageProcessor(size={"shortest_edge": 20}, crop_size=SQUARE),
        CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False),
        CLIPImageProcessor(size={"shortest_edge": 10**6}, crop_size=SQUARE),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 16}),
        SmolVLMImageProcessor(size={"longest_edge": 5000}),
        SmolVLMImageProcessor(size=SQUARE),
    ],
)
def test_what_is_not_followed_is_told(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"not followed: set task\.inputs\.resize"):
        read_resize(tmp_path)


@pytest.mark.parametrize("tiles", [True, False])
def test_tiles_that_are_not_cut_are_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tiles: bool
) -> None:
    SmolVLMImageProcessor(do_image_splitting=tiles).save_pretrained(tmp_path)
    assert read_resize(tmp_path) == Resize(resample="lanczos", longest_edge=4 * 364)
    assert ["the whole alone is seen" in line for line in caplog.messages] == [True] * tiles


def write(folder: Path, name: str, said: object) -> None:
    (folder / name).write_text(json.dumps(said), encoding="utf-8")


TIMM: dict[str, Any] = {
    **{"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
    **{"interpolation": "bicubic", "crop_pct": 0.9},
}


@pytest.mark.parametrize(
    "change",
    [
        {"crop_pct": 0},
        {"crop_pct": 1e-6},
        {"crop_pct": math.nan},
        {"crop_pct": "most"},
        {"input_size": []},
        {"input_size": [3, 32, 64]},
        {"interpolation": None},
    ],
)
def test_figures_of_timm_that_are_none_are_told(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"pretrained_cfg": TIMM | change})
    with pytest.raises(ConfigError, match=r"not followed: set task\.inputs\.resize"):
        read_resize(tmp_path)


@pytest.mark.parametrize("damage", [{"image_processor_type": 3}, [], None, {"size": "large"}])
def test_a_damaged_file_is_told_as_one_that_says_nothing(damage: Any, tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", damage)
    write(tmp_path, "config.json", None)
    with pytest.raises(ConfigError, match=r"not followed: set task\.inputs\.resize"):
        read_resize(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_std": [0.5, 0.0, 0.5]}, r"std\.1: Input should be greater than 0"),
        ({"image_mean": [0.5, 0.5]}, "mean has 2 channels, std 3"),
        ({"image_mean": [math.nan, 0.5, 0.5]}, r"mean\.0: Input should be a finite number"),
    ],
)
def test_statistics_that_cannot_be_used_are_told(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    processor = SiglipImageProcessor(size=SQUARE)
    processor.save_pretrained(tmp_path)
    write(tmp_path, "preprocessor_config.json", processor.to_dict() | change)
    with pytest.raises(ConfigError, match=f"{told}.*set task\\.inputs\\.normalize"):
        settled(tmp_path)


def test_without_a_checkpoint_there_is_nothing_to_follow() -> None:
    config = TransformersImageConfig(name="transformers", image_size=SIDE)
    inputs = ImageInputConfig.model_validate({"modality": "image", "resize": "checkpoint"})
    with pytest.raises(ConfigError, match=r"task\.inputs\.resize, are what the encoder's"):
        settle(config, inputs, None)


def test_what_settings_say_stays() -> None:
    config = TransformersImageConfig(name="transformers", image_size=SIDE)
    inputs = ImageInputConfig.model_validate({"modality": "image", "resize": {"crop": 0.5}})
    assert settle(config, inputs, None) == (config, inputs)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"image_resize": {}}, "says how images get image_size, which is null: set it"),
        (
            {"image_size": [8, 9], "image_resize": {"keep_ratio": True}},
            r"keep_ratio is for squares, and image_size is \[8, 9\]",
        ),
    ],
)
def test_a_cache_that_cannot_resize_so_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TokenizeConfig.model_validate(settings)
