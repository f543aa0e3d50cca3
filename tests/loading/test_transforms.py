"""Pixels reach the model as torchvision would bring them there, in one fixed shape."""

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms.v2 import functional

from plumbline.errors import DataError
from plumbline.loading.random import keyed_generator
from plumbline.loading.transform_config import (
    STATISTICS,
    AugmentConfig,
    ImageTransformConfig,
    Normalization,
)
from plumbline.loading.transforms import (
    augment_images,
    normalize_images,
    resize_images,
    stack_images,
)

ALL_ON = AugmentConfig(enlarge=4, flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3)


def noise(batch: int = 3, height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def augmented(images: Tensor, config: AugmentConfig, size: int, epoch: int = 0) -> Tensor:
    generators = [keyed_generator(0, "augment", epoch, i) for i in range(len(images))]
    return augment_images(images, config, size, generators)


@pytest.mark.parametrize("preset", sorted(STATISTICS))
def test_normalisation_equals_torchvision(preset: str) -> None:
    images = noise()
    mean, std = STATISTICS[preset]
    scaled = functional.to_dtype(images, torch.float32, scale=True)
    expected = functional.normalize(scaled, list(mean), list(std))
    normalization = Normalization(preset=preset)  # type: ignore[arg-type]
    result = normalize_images(images, normalization)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_the_imagenet_statistics_are_those_of_torchvision() -> None:
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert STATISTICS["imagenet"] == (tuple(transform.mean), tuple(transform.std))


def test_black_is_minus_one_and_white_one_under_half() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    result = normalize_images(images, Normalization(preset="half")).flatten(1)
    torch.testing.assert_close(result, torch.tensor([[-1.0] * 3, [1.0] * 3]), rtol=0, atol=1e-6)


def test_own_statistics_replace_a_preset() -> None:
    own = Normalization(preset=None, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    images = noise()
    half = normalize_images(images, Normalization(preset="half"))
    assert torch.equal(normalize_images(images, own), half)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="images have 1 channels, the statistics 3"):
        normalize_images(noise(channels=1), Normalization())
    with pytest.raises(ValidationError, match="images have 3 channels, the statistics 1"):
        ImageTransformConfig(normalize=Normalization(preset=None, mean=[0.5], std=[0.5]))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"mean": [0.5], "std": [0.5]}, "contradict"),
        ({"preset": None}, "both mean and std"),
        ({"preset": None, "mean": [0.5]}, "both mean and std"),
        ({"preset": None, "mean": [0.5], "std": [0.5, 0.5]}, "mean has 1 channels, std 2"),
        ({"preset": None, "mean": [0.5], "std": [0.0]}, "greater than 0"),
    ],
)
def test_contradicting_statistics_are_refused(settings: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Normalization.model_validate(settings)


def test_images_of_one_size_are_stacked_channels_first() -> None:
    images = [np.full((4, 6, 3), n, np.uint8) for n in (1, 2)]
    images[0][1, 2, 0] = 9
    stacked = stack_images(images, [10, 11])
    assert stacked.shape == (2, 3, 4, 6)
    assert stacked.dtype == torch.uint8
    assert stacked[0, 0, 1, 2] == 9


def test_images_of_different_sizes_name_sizes_and_samples() -> None:
    images = [np.zeros((h, 6, 3), np.uint8) for h in (4, 4, 5)]
    with pytest.raises(DataError) as caught:
        stack_images(images, ["a", "b", "c"])
    text = str(caught.value)
    assert "sample a is (4, 6, 3), sample c is (5, 6, 3)" in text
    assert "tokenize.image_size" in text


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (40, 8)])
def test_any_shape_is_brought_to_the_fixed_one(height: int, width: int) -> None:
    images = noise(height=height, width=width)
    assert resize_images(images, 16).shape == (3, 3, 16, 16)
    assert augmented(images, AugmentConfig(), 16).shape == (3, 3, 16, 16)
    assert augmented(images, ALL_ON, 16).shape == (3, 3, 16, 16)


def test_a_fitting_image_is_not_touched() -> None:
    images = noise()
    assert resize_images(images, 16) is images
    assert torch.equal(augmented(images, AugmentConfig(), 16), images)


def test_resizing_twice_gives_the_same_pixels() -> None:
    images = noise(height=23, width=31)
    assert torch.equal(resize_images(images, 16), resize_images(images, 16))


def test_augmentation_draws_differ_between_epochs_and_not_between_runs() -> None:
    images = noise()
    first = augmented(images, ALL_ON, 16, epoch=0)
    assert torch.equal(first, augmented(images, ALL_ON, 16, epoch=0))
    assert not torch.equal(first, augmented(images, ALL_ON, 16, epoch=1))
    assert first.dtype == torch.uint8


def test_an_image_is_augmented_alike_in_any_company() -> None:
    images = noise()
    alone = augment_images(images[1:2], ALL_ON, 16, [keyed_generator(0, "augment", 0, 1)])
    assert torch.equal(alone[0], augmented(images, ALL_ON, 16)[1])


def test_a_certain_flip_mirrors_and_nothing_else() -> None:
    images = noise()
    assert torch.equal(augmented(images, AugmentConfig(flip=1.0), 16), images.flip(-1))


def test_crops_reach_every_corner() -> None:
    grid = torch.arange(16 * 16, dtype=torch.uint8).view(1, 1, 16, 16).expand(300, 3, 16, 16)
    config = AugmentConfig(enlarge=2)
    crops = augmented(grid, config, 14)
    corners = {int(crop[0, 0, 0]) for crop in crops}
    assert corners == {row * 16 + column for row in range(3) for column in range(3)}
