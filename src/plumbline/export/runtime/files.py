"""The files of a bundle, each checked before it is used, and the graphs in them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .guard import BundleError as BundleError
from .guard import check_file, read_digests
from .guard import printable as printable

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Graph = Callable[[Sequence[Array]], list[Floats]]
"""A part of the model: arrays in, arrays out, in the order of its inputs and outputs."""
OpenGraph = Callable[[Path, int], Graph]
"""What opens a file of one format: its path, and how many threads compute."""


class InputError(Exception):
    """A request that cannot be answered; the text is one line."""


class TooLargeError(InputError):
    """An input beyond the limits of the contract."""


class Files:
    """The files of a bundle, each checked against digests.json before it is used."""

    def __init__(self, folder: Path) -> None:
        """Read the list of digests.

        Raises:
            BundleError: it is missing or damaged.
        """
        self.folder, self.digests = folder, read_digests(folder)

    def check(self, name: str) -> Path:
        """Compare a file with its digest and return its path.

        Raises:
            BundleError: it is not listed, missing, or its bytes have changed.
        """
        return check_file(self.folder, self.digests, name)

    def read(self, name: str) -> bytes:
        """The checked bytes of a file."""
        return self.check(name).read_bytes()
