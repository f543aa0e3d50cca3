"""From cached uint8 images to normalised pixel values, a batch at a time.

All of it runs on whatever device the images lie on; what is random was drawn before, on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from plumbline.batch import Deferred
from plumbline.data.images import resize_image
from plumbline.data.resizing import Resize
from plumbline.errors import DataError
from plumbline.loading.transform_config import AugmentConfig, Normalization


def stack_images(images: Sequence[NDArray[np.uint8]], sample_ids: Sequence[object]) -> Tensor:
    """Stack [height, width, channels] images to [batch, height, width, channels], uint8.

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
    return torch.from_numpy(np.stack(images))


def fit_images(images: Tensor, size: int, resize: Resize | None) -> Tensor:
    """Resize [batch, height, width, channels] uint8 on the host, as a bundle does.

    Args:
        images: as the cache has them.
        size: side of the result, in pixels.
        resize: how; None: they stay, since the cache has done it or `resize_images` will.
    """
    if resize is None:
        return images
    options = resize.model_dump()
    fitted = [resize_image(_as_image(row), size, size, **options) for row in images.numpy()]
    return torch.from_numpy(np.stack(fitted))


def _as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Of [height, width, channels]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def normalize_images(images: Tensor, normalization: Normalization) -> Tensor:
    """Scale uint8 [batch, channels, height, width] to 0..1 and normalise each channel, float32.

    Raises:
        DataError: the number of channels is not that of the statistics.
    """
    normalization.check_channels(images.shape[1])
    scale, shift = (each.to(images.device) for each in _scale_and_shift(normalization))
    return torch.addcmul(shift, images.to(torch.float32), scale)


def _scale_and_shift(normalization: Normalization) -> tuple[Tensor, Tensor]:
    """One multiply-add for (x / 255 - mean) / std: [1, channels, 1, 1] each."""
    mean, std = normalization.statistics
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, -1, 1, 1)
    return scale, shift


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize [batch, channels, height, width] to exactly [size, size]; the identity if it fits."""
    if images.shape[-2:] == (size, size):
        return images
    # A second and a half to load, and most images fit.
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(images, [size, size], antialias=True)
    return resized


UNCHANGED = AugmentConfig()
PART_VALUES = 1 << 18
"""Values of images that are finished together on a CPU: a megabyte, as its cache holds."""


@dataclass(frozen=True)
class Draws:
    """What chance has decided for the images of a batch, each from its own generator."""

    places: Tensor
    """[batch, 2] int64: top and left of the crop, in pixels."""
    mirrored: Tensor
    """[batch] bool."""
    factors: Tensor
    """[colour steps, batch] float32, of the steps that the settings have."""

    @classmethod
    def of(cls, config: AugmentConfig, generators: Sequence[Generator]) -> "Draws | None":
        """Draw for images; None where the settings change none.

        Args:
            config: what to do to them.
            generators: one per image, keyed by (seed, epoch, sample).
        """
        if config == UNCHANGED:
            return None
        reach = config.enlarge + 2 * config.padding  # places of the crop, in pixels
        amounts = [amount for _, amount in _colour_steps(config)]
        places = np.empty((len(generators), 2), np.int64)
        mirrored = np.empty(len(generators), np.bool_)
        factors = np.empty((len(amounts), len(generators)), np.float32)
        for at, random in enumerate(generators):
            places[at] = random.integers(0, reach + 1, size=2)
            mirrored[at] = random.random() < config.flip
            factors[:, at] = [random.uniform(1 - amount, 1 + amount) for amount in amounts]
        return cls(*map(torch.from_numpy, (places, mirrored, factors)))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """The same, of changed tensors [batch, ...]."""
        return Draws(change(self.places), change(self.mirrored), change(self.factors))

    def part(self, rows: slice) -> "Draws":
        """Those of some of the images."""
        return Draws(self.places[rows], self.mirrored[rows], self.factors[:, rows])


def augment_images(images: Tensor, config: AugmentConfig, size: int, draws: Draws | None) -> Tensor:
    """Crop, mirror and recolour each image as was drawn for it.

    Args:
        images: [batch, channels, height, width], uint8; one channel is its own gray.
        config: what to do; all off gives `resize_images(images, size)`.
        size: side of the result, in pixels.
        draws: by the same settings, on the device of the images; None: nothing is done.
    """
    if draws is None:
        return resize_images(images, size)
    cut = cut_together(_resized(images, config, size), draws, size).to(torch.float32)
    return _recolour(cut, config, draws.factors).to(torch.uint8)


def _resized(images: Tensor, config: AugmentConfig, size: int) -> Tensor:
    """As large as the crops need them, with the padding around."""
    images = resize_images(images, size + config.enlarge)
    return pad(images, [config.padding] * 4) if config.padding else images


def cut_each(images: Tensor, draws: Draws, out: Tensor) -> None:
    """Write the drawn crops, mirrored where drawn, one by one: the faster way on a CPU.

    Args:
        images: [batch, channels, height, width], uint8.
        draws: of these images.
        out: [batch, channels, size, size], float32.
    """
    size, places, mirrored = out.shape[-1], draws.places.tolist(), draws.mirrored.tolist()
    # numpy views of the same memory: cutting out image by image costs less there.
    for row, image, (top, left), flip in zip(
        out.numpy(), images.numpy(), places, mirrored, strict=True
    ):
        crop = image[:, top : top + size, left : left + size]
        row[...] = crop[..., ::-1] if flip else crop


def cut_together(images: Tensor, draws: Draws, size: int) -> Tensor:
    """The same crops [batch, channels, size, size], in a few kernels for all images."""
    # [batch, channels, places, places, size, size]: a view of every crop that there is
    crops = images.unfold(2, size, 1).unfold(3, size, 1)
    rows = torch.arange(len(images), device=images.device)
    chosen = crops[rows, :, draws.places[:, 0], draws.places[:, 1]]
    return torch.where(draws.mirrored.view(-1, 1, 1, 1), chosen.flip(-1), chosen)


def _recolour(images: Tensor, config: AugmentConfig, factors: Tensor) -> Tensor:
    """Change colours in place; whole numbers stay whole numbers.

    Args:
        images: [batch, channels, size, size], float32 of 0 to 255.
        config: says which steps there are.
        factors: [colour steps, batch], of each image.
    """
    for (blend, _), factor in zip(_colour_steps(config), factors, strict=True):
        blend(images, factor.view(-1, 1, 1, 1))
        # Cut, not rounded, as torchvision does between its colour steps on uint8.
        images.clamp_(0, 255).trunc_()
    return images


def _colour_steps(config: AugmentConfig) -> list[tuple[Callable[[Tensor, Tensor], Tensor], float]]:
    """What recolours images [batch, channels, size, size] by factors, and how far it may go."""
    steps = (
        (Tensor.mul_, config.brightness),
        (_contrast, config.contrast),
        (_saturate, config.saturation),
    )
    return [(blend, amount) for blend, amount in steps if amount]


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    # [batch, 1, 1, 1]: each image is blended with its own mean. In float64 a sum of so many whole
    # numbers is exact, in whatever order they are added.
    mean = _gray(images).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    mean = mean.to(torch.float32) / images[0, 0].numel()
    return images.mul_(factor).add_((1 - factor) * mean)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    gray = _gray(images).mul_(1 - factor)
    return images.mul_(factor).add_(gray)


def _gray(images: Tensor) -> Tensor:
    """[batch, 1, size, size] of whole numbers, as torchvision gives them for uint8; to be read."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, at : at + 1] for at in range(3))
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).trunc_()


@dataclass(frozen=True)
class RawImages(Deferred):
    """Images as the cache has them, with what makes pixel values of them: a quarter as large."""

    pixels: Tensor
    """[batch, height, width, channels] uint8."""
    scale: Tensor
    """[1, channels, 1, 1] float32, as `shift`: they travel with the pixels."""
    shift: Tensor
    size: int
    """Side of the pixel values."""
    augment: AugmentConfig
    draws: Draws | None
    """None: the images are not augmented."""

    @classmethod
    def of(
        cls,
        pixels: Tensor,
        normalization: Normalization,
        size: int,
        augment: AugmentConfig | None = None,
        generators: Sequence[Generator] | None = None,
    ) -> Self:
        """Hold images, and draw what is random about them now.

        Args:
            pixels: [batch, height, width, channels] uint8.
            normalization: of the pixel values.
            size: side of the pixel values.
            augment: what training does to the images.
            generators: one an image, for its augmentation; None: there is none.

        Raises:
            DataError: the number of channels is not that of the statistics.
            ValueError: an image has no generator.
        """
        normalization.check_channels(pixels.shape[-1])
        empty = cls(pixels[:0], *_scale_and_shift(normalization), size, augment or UNCHANGED, None)
        return empty.holding(pixels, generators)

    def holding(self, pixels: Tensor, generators: Sequence[Generator] | None) -> Self:
        """The same of other images, [batch, height, width, channels] uint8, and their generators.

        Raises:
            ValueError: an image has no generator.
        """
        if generators is None:
            return replace(self, pixels=pixels, draws=None)
        if len(generators) != len(pixels):
            raise ValueError(f"{len(pixels)} images, {len(generators)} generators")
        return replace(self, pixels=pixels, draws=Draws.of(self.augment, generators))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixel values."""
        return len(self.pixels), self.pixels.shape[-1], self.size, self.size

    @override
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """See `Deferred`."""
        pixels, scale, shift = map(change, (self.pixels, self.scale, self.shift))
        draws = self.draws and self.draws.map(change)
        return replace(self, pixels=pixels, scale=scale, shift=shift, draws=draws)

    @override
    def finish(self, out: Tensor | None = None) -> Tensor:
        """Pixel values [batch, channels, size, size], float32.

        Args:
            out: memory for them, on a CPU; None: new memory.
        """
        if self.pixels.device.type == "cpu":
            values = torch.empty(self.shape) if out is None else out
            return self.finish_parts(self.pixels.__getitem__, self.draws, values)
        images = self._as_planes(self.pixels, self.draws)
        if self.draws is not None:
            images = cut_together(images, self.draws, self.size)
        values = images.contiguous().to(torch.float32)
        if self.draws is not None:
            _recolour(values, self.augment, self.draws.factors)
        return torch.addcmul(self.shift, values, self.scale)

    def _as_planes(self, pixels: Tensor, draws: Draws | None) -> Tensor:
        """Images [batch, channels, height, width] as large as they are needed, of `pixels`."""
        # Encoders take channels first.
        images = pixels.permute(0, 3, 1, 2)
        augment = UNCHANGED if draws is None else self.augment
        if images.shape[-2:] != (self.size + augment.enlarge,) * 2:
            images = images.contiguous()
        return _resized(images, augment, self.size)

    def finish_parts(
        self, pixels: Callable[[slice], Tensor], draws: Draws | None, out: Tensor
    ) -> Tensor:
        """The same on a CPU: some images at a time, which stay in its cache until they are done.

        Args:
            pixels: gives some of the images, in place of those that are held.
            draws: of these images.
            out: [batch, channels, size, size] float32, memory for the pixel values.
        """
        count = -(-len(out) // max(1, PART_VALUES // out[0].numel()))
        step = -(-len(out) // count)  # images of a part, as `chunk` makes parts
        scales, shifts = self.scale.flatten().tolist(), self.shift.flatten().unbind()
        for at, part in zip(range(0, len(out), step), out.chunk(count), strict=True):
            rows = slice(at, at + step)
            images = self._as_planes(pixels(rows), draws)
            if draws is None:
                part.copy_(images)
            else:
                of_part = draws.part(rows)
                cut_each(images, of_part, part)
                _recolour(part, self.augment, of_part.factors)
            for plane, scale, shift in zip(part.unbind(1), scales, shifts, strict=True):
                # One multiply-add in one pass, as `addcmul`, which is slow with these shapes.
                torch.add(shift, plane, alpha=scale, out=plane)
        if draws is None and out.shape[1] == 1:
            # The same memory, with the strides that say how it was decoded: layers choose by them.
            return out.as_strided(out.shape, images.stride())
        return out
