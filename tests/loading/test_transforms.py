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
    Draws,
    RawImages,
    augment_images,
    cut_each,
    cut_together,
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
    return augment_images(images, config, size, draws(config, len(images), epoch))


def draws(config: AugmentConfig, count: int, epoch: int = 0) -> Draws | None:
    return Draws.of(config, [keyed_generator(0, "augment", epoch, i) for i in range(count)])


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


def test_the_presets_are_the_published_figures_and_imagenet_is_the_default() -> None:
    assert STATISTICS["clip"] == (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    )
    assert STATISTICS["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert Normalization().statistics == STATISTICS["imagenet"]
    for preset in STATISTICS:
        config = ImageTransformConfig.model_validate({"normalize": {"preset": preset}})
        assert config.normalize.statistics == STATISTICS[preset]


def test_a_batch_of_one_channel_stays_one_channel() -> None:
    gray = noise(channels=1)
    one = Normalization(preset=None, mean=[0.1307], std=[0.3081])
    result = normalize_images(gray, one)
    assert result.shape == (3, 1, 16, 16)
    torch.testing.assert_close(result, (gray / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    moved = augmented(gray, AugmentConfig(padding=2, flip=0.5), 16)
    assert moved.shape == (3, 1, 16, 16)
    images = [np.zeros((4, 6, 1), np.uint8)] * 2
    assert stack_images(images, ["a", "b"]).shape == (2, 4, 6, 1)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="images have 3 channels, the statistics 1"):
        normalize_images(noise(), Normalization(preset=None, mean=[0.5], std=[0.5]))
    with pytest.raises(DataError, match="images have 1 channels, the statistics 3"):
        normalize_images(noise(channels=1), Normalization())
    for count in (0, 2, 4):
        own = Normalization(preset=None, mean=[0.5] * count, std=[0.5] * count)
        with pytest.raises(ValidationError, match=f"image_mode gray, the statistics {count}"):
            ImageTransformConfig(normalize=own)


def test_one_channel_is_its_own_gray() -> None:
    gray = noise(channels=1)
    config = AugmentConfig(contrast=0.4)
    for image, moved, at in zip(gray, augmented(gray, config, 16), range(3), strict=True):
        draws = keyed_generator(0, "augment", 0, at)
        draws.integers(0, 1, size=2)
        draws.random()
        factor = torch.tensor(draws.uniform(0.6, 1.4), dtype=torch.float32)
        expected = image * factor + (1 - factor) * image.float().mean()
        assert torch.equal(moved, expected.clamp(0, 255).to(torch.uint8))


def test_saturation_of_one_channel_is_refused() -> None:
    own = {"preset": None, "mean": [0.5], "std": [0.5]}
    settings = {"normalize": own, "augment": {"saturation": 0.2}}
    with pytest.raises(ValidationError, match=r"augment\.saturation is 0\.2, but normalize is for"):
        ImageTransformConfig.model_validate(settings)


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


def test_images_of_one_size_are_stacked_as_they_lie() -> None:
    images = [np.full((4, 6, 3), n, np.uint8) for n in (1, 2)]
    images[0][1, 2, 0] = 9
    stacked = stack_images(images, [10, 11])
    assert stacked.shape == (2, 4, 6, 3)
    assert stacked.dtype == torch.uint8
    assert stacked[0, 1, 2, 0] == 9


def test_images_of_different_sizes_name_sizes_and_samples() -> None:
    images = [np.zeros((h, 6, 3), np.uint8) for h in (4, 4, 5)]
    with pytest.raises(DataError) as caught:
        stack_images(images, ["a", "b", "c"])
    text = str(caught.value)
    assert "sample a is (4, 6, 3), sample c is (5, 6, 3)" in text
    assert "tokenize.image_size" in text


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (40, 8), (200, 100), (100, 200)])
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
    own = Draws.of(ALL_ON, [keyed_generator(0, "augment", 0, 1)])
    alone = augment_images(images[1:2], ALL_ON, 16, own)
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


def torchvision_by_hand(image: Tensor, config: AugmentConfig, size: int, number: int) -> Tensor:
    """The transforms one after another, for one image, with the draws of `augmented`."""
    random = keyed_generator(0, "augment", 0, number)
    side = size + config.enlarge
    image = functional.resize(image, [side, side], antialias=True)
    image = functional.pad(image, [config.padding] * 4)
    top, left = random.integers(0, config.enlarge + 2 * config.padding + 1, size=2).tolist()
    image = functional.crop(image, top, left, size, size)
    if random.random() < config.flip:
        image = functional.horizontal_flip(image)
    for adjust, reach in (
        (functional.adjust_brightness, config.brightness),
        (functional.adjust_contrast, config.contrast),
        (functional.adjust_saturation, config.saturation),
    ):
        if reach:
            image = adjust(image, float(random.uniform(1 - reach, 1 + reach)))
    return image


@pytest.mark.parametrize(
    "settings",
    [
        {"enlarge": 32, "flip": 0.5},
        {"padding": 4, "flip": 0.5},
        {"enlarge": 2, "padding": 3},
        {"enlarge": 32, "flip": 0.5, "brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.4},
        {"enlarge": 32, "flip": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    ],
)
def test_the_train_transforms_equal_those_of_torchvision(settings: dict[str, float]) -> None:
    config = AugmentConfig.model_validate(settings)
    images = noise(batch=12, height=20, width=28)
    result = augmented(images, config, 32)
    assert result.shape == (12, 3, 32, 32)
    expected = torch.stack(
        [torchvision_by_hand(image, config, 32, number) for number, image in enumerate(images)]
    )
    # Fractions are cut off: where one lies at a whole number, its rounding moves it by a level.
    colours = sum(key not in ("enlarge", "flip", "padding") for key in settings)
    off = (result.int() - expected.int()).abs()
    assert off.max() <= colours
    assert (off > 0).float().mean() <= 0.01 * colours


def test_padding_shows_black_and_reaches_every_offset() -> None:
    images = torch.full((600, 3, 4, 4), 9, dtype=torch.uint8)
    crops = augmented(images, AugmentConfig(padding=1), 4)
    seen = set()
    for crop in crops[:, 0]:
        rows, columns = (crop == 9).any(dim=1), (crop == 9).any(dim=0)
        assert torch.equal(crop == 9, rows.unsqueeze(1) & columns)
        assert set(crop.unique().tolist()) <= {0, 9}
        seen.add((tuple(rows.tolist()), tuple(columns.tolist())))
    assert len(seen) == 9


def test_every_image_needs_a_generator_of_its_own() -> None:
    with pytest.raises(ValueError, match="3 images, 1 generators"):
        RawImages.of(
            noise().permute(0, 2, 3, 1),
            *(Normalization(), 16, ALL_ON, [keyed_generator(0, "augment")]),
        )


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_images_are_cut_out_together_as_each_alone(flip: float) -> None:
    images = noise(batch=40, height=20, width=20)
    drawn = draws(AugmentConfig(enlarge=4, flip=flip), 40)
    assert drawn is not None
    together, each = cut_together(images, drawn, 16), torch.empty(40, 3, 16, 16)
    cut_each(images, drawn, each)
    assert torch.equal(together, each.to(torch.uint8))
    assert together.is_contiguous()


def test_raw_images_become_the_pixel_values_of_one_step_after_the_other() -> None:
    images, statistics = noise(height=20, width=28), Normalization(preset="clip")
    raw = RawImages.of(images.permute(0, 2, 3, 1), statistics, 16)
    expected = normalize_images(resize_images(images, 16), statistics)
    assert torch.equal(raw.finish(), expected)
    assert raw.finish().is_contiguous()
    generators = [keyed_generator(0, "augment", 0, i) for i in range(3)]
    raw = RawImages.of(images.permute(0, 2, 3, 1), statistics, 16, ALL_ON, generators)
    expected = normalize_images(augmented(images, ALL_ON, 16), statistics)
    assert torch.equal(raw.finish(), expected)
    copied = raw.map(torch.clone)
    assert torch.equal(copied.finish(), expected)
    assert copied.draws is not raw.draws
