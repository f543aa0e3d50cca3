"""Images of a cache that are copied where they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.loading.media_reader import Images


@dataclass(frozen=True)
class CachedImages(Sequence[NDArray[np.generic]]):
    """Images of a cache by their numbers, copied where they are needed."""

    images: Images
    """[images, height, width, channels]: all of the cache."""
    numbers: NDArray[np.integer]

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
            return CachedImages(self.images, self.numbers[at])
        return self.images[int(self.numbers[at])]

    def pixels(self) -> torch.Tensor:
        """Copies, [images, height, width, channels]."""
        return torch.from_numpy(self.images[self.numbers])
