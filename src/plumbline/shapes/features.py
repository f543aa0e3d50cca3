"""Channels, lengths and moments of feature sequences; each distinct array counts once."""

from collections.abc import Sequence

import pyarrow as pa

from plumbline.data.arrays import decode_features
from plumbline.data.clean_media import decoding
from plumbline.data.columns import SPLITS
from plumbline.data.disk_index import DiskIndex
from plumbline.errors import DataError
from plumbline.shapes.batch_media import BatchMedia
from plumbline.shapes.described import Described, FeatureShape
from plumbline.shapes.media import new_media
from plumbline.shapes.moments import Moments, rounded
from plumbline.shapes.sources import Shape, find_shape

SETTING = "detect_shapes.features"


class FeatureShapes:
    """Arrays [time, channels]."""

    column = "features"

    def __init__(
        self, seen: DiskIndex, media: BatchMedia, declared: Sequence[int | None] | None
    ) -> None:
        """`declared` is [time or None, channels], which every array must have."""
        self._seen, self._media = seen, media
        self._declared: Shape | None = None if declared is None else tuple(declared)
        self._shapes: dict[str, Shape] = {}
        self._moments: dict[str, Moments] = {}
        self._lengths: list[int] = []
        self._arrays = 0
        self._steps = 0

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        """Look at the arrays of a batch.

        Raises:
            DataError: one is not of the declared shape, or has other channels than those before.
        """
        for medium in new_media(self.column, batch, self._seen, self._media):
            with decoding("feature array", medium.data):
                array = decode_features(medium.data)
            steps, channels = array.shape
            self._check(split, steps, channels)
            same = self._shapes.get(split, (steps, channels))[0] == steps
            self._shapes[split] = (steps if same else None, channels)
            if split not in self._moments:
                self._moments[split] = Moments(channels)
            self._moments[split].add(array)
            lengths = [*self._lengths, steps]
            self._lengths = [min(lengths), max(lengths)]
            self._arrays += 1
            self._steps += steps

    def _check(self, split: str, steps: int, channels: int) -> None:
        found = f"split {split} has an array of {steps} steps and {channels} channels"
        if self._declared is not None:
            time, declared = self._declared
            if declared != channels or time not in (None, steps):
                raise DataError(
                    f"{SETTING} = {_written(self._declared)} contradicts the data: {found}; "
                    "mend the setting, or drop such rows by validate.channels"
                )
        for other, shape in self._shapes.items():
            if shape[1] != channels:
                raise DataError(
                    f"{found}, another one in {other} has {shape[1]} channels; set "
                    "validate.channels to the number that is right"
                )

    def describe(self) -> Described:
        """Channels, lengths, and the moments of the training split.

        Raises:
            DataError: nothing says how many channels there are.
        """
        sources: list[tuple[str, Shape | None]] = [(f"the setting {SETTING}", self._declared)]
        sources += [(f"split {split}", self._shapes.get(split)) for split in SPLITS]
        channels = find_shape("features", sources)[1]
        assert channels is not None, "only a length in time may differ"
        described: FeatureShape = {"arrays": self._arrays, "channels": channels}
        if self._arrays:
            moments = next(self._moments[split] for split in SPLITS if split in self._moments)
            described |= {
                "shortest": self._lengths[0],
                "longest": self._lengths[1],
                "mean": rounded(self._steps / self._arrays),
                "mean_of_channels": moments.mean(),
                "std_of_channels": moments.std(),
            }
        return {"features": described}


def _written(shape: Shape) -> str:
    return f"[{', '.join('null' if length is None else str(length) for length in shape)}]"
