"""The images that the turns of each row of a batch show."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.validation.digests import Bools
from plumbline.validation.faults import Fault
from plumbline.validation.judged import FAULTY, GOOD, Judged, RowFaults
from plumbline.validation.leaks import medium_digest
from plumbline.validation.shown_check import count_places, split_images


class ShownRows:
    """Whether turns and images of rows belong together; nothing where there are no `images`."""

    def __init__(
        self, content: Mapping[str, Judged], ranks: Mapping[str, NDArray[np.int8]]
    ) -> None:
        """Look at the columns of a batch, and how their cells were judged."""
        names = ("turns", "images") if "images" in content else ()
        self._columns = [content[name] for name in names]
        self._ranks = [ranks[name] for name in names]
        self._images: list[list[bytes | None]] = []
        if names:
            cells = content["images"].cells
            self._images = [split_images(cells.value(at)) for at in range(len(cells.starts))]

    def blame(self, faults: RowFaults) -> None:
        """Give rows a fault that have not an image for each place, and a place for each image."""
        if not self._columns:
            return
        turns = self._columns[0].cells
        marks = [count_places(turns.value(at)) for at in range(len(turns.starts))]
        places, shown = (
            np.where(rank == GOOD, np.array([*counts, 0])[column.rows], 0)
            for column, rank, counts in zip(
                self._columns, self._ranks, (marks, map(len, self._images)), strict=True
            )
        )
        differ = places != shown
        # An image that cannot be used takes turns with it that have no place for it.
        is_lost = differ | (self._ranks[0] == GOOD)
        for column, rank in zip(self._columns, self._ranks, strict=True):
            # The cell that could not be used is the reason.
            faults.blame(column, is_lost & (rank == FAULTY))
        pairs, rows = np.unique(np.stack((places, shown)), axis=1, return_inverse=True)
        said = {
            at: Fault("image_places", f"{one} places of images in the turns, {other} images")
            for at, (one, other) in enumerate(pairs.T.tolist())
            if one != other
        }
        faults.give(rows.ravel(), said)

    def others(self, good: Bools, kind: pa.ListType) -> pa.Array:
        """Digests of the images of good rows [rows] behind the first: lists of type `kind`."""
        if not self._columns:
            return pa.nulls(len(good), kind)
        rank, column = self._ranks[1], self._columns[1]
        behind = [
            [medium_digest("image", image) for image in images[1:] if image] or None
            for images in self._images
        ]
        places = np.where(good & (rank == GOOD), column.rows, len(behind))
        return pa.array([*behind, None], kind).take(pa.array(places))
