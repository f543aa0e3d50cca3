"""From images of a cache to what an image encoder makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from plumbline.batch import Batch, Deferred
from plumbline.data.resizing import Resize
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.feed import Feed
from plumbline.loading.input_config import ImageInputConfig
from plumbline.loading.inputs import left_to_resize
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import fit_images, normalize_images, resize_images
from plumbline.models.vision import ImageEncoder

BATCH_IMAGES = 256


def encode_images(
    encoder: ImageEncoder,
    images: NDArray[np.uint8],
    normalize: Normalization,
    image_size: int,
    device: torch.device,
    resize: Resize | None = None,
) -> torch.Tensor:
    """Encode uint8 images to tokens [batch, tokens, token_width].

    Args:
        encoder: evaluating, on the device.
        images: [batch, height, width, channels].
        normalize: as the encoder was trained.
        image_size: side of the encoder's input, in pixels.
        device: where to encode.
        resize: how images become that size, as in `fit_images`.
    """
    fitted = fit_images(torch.from_numpy(np.array(images)), image_size, resize)
    pixels = _Images(fitted.to(device), normalize, image_size).finish()
    with torch.inference_mode():
        # In float32, and off the device, where all would not fit.
        tokens: torch.Tensor = encoder(pixels).tokens.float().cpu()
    return tokens


def image_feed(cache: TrainingCache, inputs: ImageInputConfig, image_size: int) -> Feed:
    """All images of a cache, whatever split they are in."""
    images, resize = cache.images, left_to_resize(inputs, cache)

    def collate(wanted: NDArray[np.int64]) -> Batch:
        fitted = fit_images(torch.from_numpy(images[wanted]), image_size, resize)
        # Deferred: they travel as bytes.
        return {"pixel_values": _Images(fitted, inputs.normalize, image_size)}

    key = {
        "images": {name: cache.digests[name] for name in cache.media_files("image")},
        "shape": images.shape,
        "normalize": inputs.normalize.model_dump(),
        "image_size": image_size,
        "resize": resize and resize.model_dump(),
    }
    return Feed("images", np.arange(len(images)), collate, key)


@dataclass(frozen=True)
class _Images(Deferred):
    """Images that become pixel values where they are, with the channels last in memory."""

    images: torch.Tensor
    """[batch, height, width, channels] uint8."""
    normalize: Normalization
    image_size: int

    @override
    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return replace(self, images=change(self.images))

    @override
    def finish(self) -> torch.Tensor:
        # Caches hold planes, and layers choose by strides how they compute.
        stacked = self.images.contiguous().permute(0, 3, 1, 2)
        return normalize_images(resize_images(stacked, self.image_size), self.normalize)


def bundle_pixels(
    images: NDArray[np.uint8], size: int, inputs: ImageInputConfig
) -> NDArray[np.float32]:
    """What a bundle is to make of cached images, [images, channels, size, size]."""
    # As the bundle does to them, whatever the cache has done before.
    fitted = fit_images(torch.from_numpy(np.array(images)), size, inputs.settled)
    stacked = fitted.contiguous().permute(0, 3, 1, 2)  # strides as of `_Images`
    pixels: NDArray[np.float32] = normalize_images(stacked, inputs.normalize).numpy()
    return pixels
