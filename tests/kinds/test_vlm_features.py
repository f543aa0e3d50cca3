"""Features of a frozen encoder are computed once per image, and checked when read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from plumbline.kinds.vlm import features
from plumbline.kinds.vlm.features import cached_features, encode_images
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import normalize_images
from plumbline.models.encoder_config import VitConfig
from plumbline.models.encoders import build_encoder
from plumbline.models.vision import ImageEncoder

CPU = torch.device("cpu")
HALF = Normalization(preset="half")


@pytest.fixture
def encoder() -> ImageEncoder:
    torch.manual_seed(0)
    config = VitConfig(
        name="vit", image_size=16, patch_size=8, width=16, layers=1, heads=2, mlp_width=16
    )
    encoder: ImageEncoder = build_encoder(config).eval()
    return encoder


def images(count: int = 7, side: int = 16) -> NDArray[np.uint8]:
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cached(encoder: ImageEncoder, folder: Path) -> NDArray[np.float32]:
    return cached_features(encoder, images(), HALF, 16, folder=folder, device=CPU)


def test_tokens_are_those_of_the_normalised_images(encoder: ImageEncoder) -> None:
    tokens = encode_images(encoder, images(), HALF, 16, CPU)
    pixels = normalize_images(torch.from_numpy(images()).permute(0, 3, 1, 2), HALF)
    with torch.inference_mode():
        torch.testing.assert_close(tokens, encoder(pixels).tokens, rtol=1e-6, atol=1e-6)
    assert tokens.dtype == torch.float32


def test_images_of_another_size_are_resized(encoder: ImageEncoder) -> None:
    """With the pixels that Pillow makes of them."""
    tokens = encode_images(encoder, images(2, 23), HALF, 16, CPU)
    small = [Image.fromarray(x).resize((16, 16), Image.Resampling.BILINEAR) for x in images(2, 23)]
    pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = encoder((pixels / 255 - 0.5) / 0.5).tokens
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0.01)  # a level is 0.008


def test_features_are_computed_in_blocks_and_once(
    encoder: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_images(encoder, images(), HALF, 16, CPU).numpy()
    monkeypatch.setattr(features, "BATCH_IMAGES", 3)
    first = cached(encoder, tmp_path / "key")
    np.testing.assert_allclose(first, whole, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(features, "encode_images", None)  # a second call would fail
    again = cached(encoder, tmp_path / "key")
    assert np.array_equal(again, first)
    assert not again.flags.writeable


def test_damaged_features_are_made_again(
    encoder: ImageEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = cached(encoder, tmp_path / "key").copy()
    file = tmp_path / "key/features.bin"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    assert np.array_equal(cached(encoder, tmp_path / "key"), first)
    assert "features.bin: its bytes changed" in caplog.text


def test_an_interrupted_encoding_leaves_nothing_behind(
    encoder: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features, "encode_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached(encoder, tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
    assert cached(encoder, tmp_path / "key").shape == (7, 4, 16)
