import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.errors import CheckpointError
from plumbline.report.pictures import Pictures

MAX_SIDE = 160


def write_cache(folder: Path, pixels: np.ndarray | None) -> Path:
    shape = None if pixels is None else list(pixels.shape[1:])
    count = 0 if pixels is None else len(pixels)
    (folder / "cache.json").write_text(
        json.dumps({"image_shape": shape, "images": count, "image_layout": "planes"}),
        encoding="utf-8",
    )
    if pixels is not None:
        (folder / "images.bin").write_bytes(pixels.transpose(0, 3, 1, 2).tobytes())
    return folder


def decode(uri: str | None) -> Image.Image:
    assert uri is not None
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_picture_has_the_pixels_of_the_cache(tmp_path: Path) -> None:
    pixels = noise(3, 5, 7, 3)
    pictures = Pictures(write_cache(tmp_path, pixels), MAX_SIDE)
    np.testing.assert_array_equal(np.asarray(decode(pictures.uri(2))), pixels[2])
    assert pictures.pixelated


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    pixels = noise(1, 5, 7, 1)
    image = decode(Pictures(write_cache(tmp_path, pixels), MAX_SIDE).uri(0))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), pixels[0, :, :, 0])


def test_a_large_picture_is_reduced(tmp_path: Path) -> None:
    pictures = Pictures(write_cache(tmp_path, noise(1, 2 * MAX_SIDE, MAX_SIDE, 3)), MAX_SIDE)
    assert decode(pictures.uri(0)).size == (MAX_SIDE // 2, MAX_SIDE)
    assert not pictures.pixelated


def test_a_dataset_without_images_has_no_pictures(tmp_path: Path) -> None:
    pictures = Pictures(write_cache(tmp_path, None), MAX_SIDE)
    assert pictures.uri(0) is None
    assert not pictures.pixelated


def test_a_number_beyond_the_images_has_no_picture(tmp_path: Path) -> None:
    assert Pictures(write_cache(tmp_path, noise(1, 5, 7, 3)), MAX_SIDE).uri(1) is None


def test_a_cut_cache_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path, noise(1, 5, 7, 3))
    (tmp_path / "images.bin").write_bytes(b"0")
    with pytest.raises(CheckpointError, match=r"images\.bin: missing or cut short"):
        Pictures(tmp_path, MAX_SIDE)
