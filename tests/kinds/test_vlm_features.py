"""What an image encoder is given of the images of a cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from plumbline.kinds.vlm.features import encode_images, image_feed
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import ImageInputConfig
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


def test_kept_features_are_of_images_with_the_channels_last_however_the_cache_lays_them(
    scenes_cache: Path,
) -> None:
    """Layers choose how they compute by strides, so these belong to the bits of features."""
    cache = TrainingCache(scenes_cache)
    config = ImageInputConfig.model_validate({"modality": "image", "normalize": HALF.model_dump()})
    numbers = np.array([4, 0, 4])
    found = image_feed(cache, config, 16).collate(numbers)["pixel_values"].finish()
    laid = torch.from_numpy(np.ascontiguousarray(cache.images[numbers])).permute(0, 3, 1, 2)
    assert torch.equal(found, normalize_images(laid, HALF))
    assert found.stride() == laid.stride() == (16 * 16 * 3, 1, 16 * 3, 3)
