"""Images of a cache that are read where they are needed."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plumbline.loading.kept_memory import KeptMemory
from plumbline.loading.media_reader import Images


@dataclass(frozen=True)
class CachedImages(Sequence[NDArray[np.generic]]):
    """Images of a cache by their numbers, copied where they are needed."""

    images: Images
    """[images, height, width, channels]: all of the cache."""
    numbers: NDArray[np.integer]
    lying: Tensor | None = None
    """The same as `images`, by `where_they_lie`."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> NDArray[np.generic]: ...

    @overload
    def __getitem__(self, at: slice) -> "CachedImages": ...

    def __getitem__(self, at: int | slice) -> "NDArray[np.generic] | CachedImages":
        """An image, or those of a part."""
        if isinstance(at, slice):
            return CachedImages(self.images, self.numbers[at], self.lying)
        return self.images[int(self.numbers[at])]

    def pixels(self, memory: KeptMemory) -> Tensor:
        """Copies, [images, height, width, channels] uint8, in `memory` where that can be."""
        if self.lying is None:
            return torch.from_numpy(self.images[self.numbers])
        planes = self.lying.permute(0, 3, 1, 2)
        copies = memory.take(len(self), *planes.shape[1:])
        torch.index_select(planes, 0, torch.from_numpy(self.numbers), out=copies)
        return copies.as_strided((len(self), *self.lying.shape[1:]), self.lying.stride())

    def part(self, rows: slice) -> Tensor:
        """Some of them, [part, height, width, channels]; one alone is read where it lies."""
        numbers = self.numbers[rows]
        if self.lying is not None and len(numbers) == 1:
            return self.lying[numbers[0] : numbers[0] + 1]
        return torch.from_numpy(self.images[numbers])


def where_they_lie(images: Images) -> Tensor | None:
    """All images of a cache, [images, height, width, channels], in a tensor of the same memory.

    It is a file that is mapped to be read: who writes into it ends the process. None: the images
    are encoded.
    """
    if not isinstance(images, np.ndarray):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch knows no tensor to be read alone
        return torch.from_numpy(images)
