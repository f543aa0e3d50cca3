"""From cached uint8 images to normalised pixel values, a batch at a time."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional

from plumbline.errors import DataError
from plumbline.loading.transform_config import AugmentConfig, Normalization


def stack_images(images: Sequence[NDArray[np.uint8]], sample_ids: Sequence[object]) -> Tensor:
    """Stack [height, width, channels] images to [batch, channels, height, width], uint8.

    Raises:
        DataError: they differ in shape; the text names the sizes and samples.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        odd = next(i for i, image in enumerate(images) if image.shape != images[0].shape)
        raise DataError(
            f"images of different shapes in one batch: sample {sample_ids[0]} is "
            f"{images[0].shape}, sample {sample_ids[odd]} is {images[odd].shape}; "
            "set tokenize.image_size of the dataset"
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def normalize_images(images: Tensor, normalization: Normalization) -> Tensor:
    """Scale uint8 [batch, channels, height, width] to 0..1 and normalise each channel, float32.

    Raises:
        DataError: the number of channels is not that of the statistics.
    """
    normalization.check_channels(images.shape[1])
    mean, std = normalization.statistics
    # One multiply-add: (x / 255 - mean) / std.
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, -1, 1, 1)
    return torch.addcmul(shift, images.to(torch.float32), scale)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize [batch, channels, height, width] to exactly [size, size]; the identity if it fits."""
    if images.shape[-2:] == (size, size):
        return images
    resized: Tensor = functional.resize(images, [size, size], antialias=True)
    return resized


def augment_images(
    images: Tensor, config: AugmentConfig, size: int, generators: Sequence[Generator]
) -> Tensor:
    """Crop, mirror and recolour each image with draws from its own generator.

    Args:
        images: [batch, channels, height, width], uint8; one channel is its own gray.
        config: what to do; all off gives `resize_images(images, size)`.
        size: side of the result, in pixels.
        generators: one per image, keyed by (seed, epoch, sample).
    """
    images = resize_images(images, size + config.enlarge)
    if config == AugmentConfig():
        return images
    images = pad(images, [config.padding] * 4)
    reach = config.enlarge + 2 * config.padding  # places of the crop, in pixels
    # [batch, channels, size, size], filled image by image below.
    result = torch.empty(*images.shape[:2], size, size, dtype=images.dtype)
    # numpy views of the same memory: cutting out image by image costs less there.
    pixels, cropped = images.numpy(), result.numpy()
    recolour = [
        (blend, amount)
        for blend, amount in (
            (_brighten, config.brightness),
            (_contrast, config.contrast),
            (_saturate, config.saturation),
        )
        if amount
    ]
    # [step, image]: drawn with the crop, so that each image takes its draws in one order.
    factors = np.ones((len(recolour), len(images)), dtype=np.float32)
    for row, (image, random) in enumerate(zip(pixels, generators, strict=True)):
        top, left = random.integers(0, reach + 1, size=2)
        crop = image[:, top : top + size, left : left + size]
        cropped[row] = crop[..., ::-1] if random.random() < config.flip else crop
        for step, (_, amount) in enumerate(recolour):
            factors[step, row] = random.uniform(1 - amount, 1 + amount)
    for (blend, _), factor in zip(recolour, torch.from_numpy(factors), strict=True):
        result = blend(result, factor.view(-1, 1, 1, 1))
    return result


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return _to_uint8(images * factor)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    # [batch, 1, 1, 1]: each image is blended with its own mean.
    gray = functional.rgb_to_grayscale(images).float().mean(dim=(1, 2, 3), keepdim=True)
    return _to_uint8(images * factor + (1 - factor) * gray)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    return _to_uint8(images * factor + (1 - factor) * functional.rgb_to_grayscale(images))


def _to_uint8(values: Tensor) -> Tensor:
    # Cut, not rounded, as torchvision does between its colour steps on uint8.
    return values.clamp_(0, 255).to(torch.uint8)
