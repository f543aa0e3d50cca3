"""What an encoder is given over a whole training: distinct values of a cache, by their numbers."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import Batch
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import InputConfig
from plumbline.loading.inputs import Input

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Feed:
    """What an encoder is given: values by their numbers."""

    what: str
    """The values, in the plural."""
    numbers: Numbers
    """[values] of all that a training can ask for; -1 may be one of them."""
    collate: Callable[[Numbers], Batch]
    """Numbers -> the encoder's inputs."""
    key: Mapping[str, object]
    """What, beside their contents, decides what the values become."""
    lengths: Numbers | None = None
    """[values] in steps or tokens; None: all are alike."""
    contents: Sequence[bytes] | None = None
    """[values], equal where values are; None: each number is another value, which `key` says."""

    def by_row(self) -> tuple[Numbers, Numbers]:
        """Where features of distinct values lie: longest first, so that memory is tried first.

        Returns:
            [rows] the value of each; and the row of each number, as `KeptFeatures.places`.
        """
        first = np.arange(len(self.numbers))  # [values]: the first one that is the same
        if self.contents is not None:
            seen: dict[bytes, int] = {}
            first = np.array([seen.setdefault(c, at) for at, c in enumerate(self.contents)])
        rows = np.unique(first)  # [distinct values], in the order of their numbers
        if self.lengths is not None:
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        row_of = np.empty(len(first), np.int64)
        row_of[rows] = np.arange(len(rows))
        # What was not asked for is behind the last row, where a read fails.
        places = np.full(int(self.numbers.max()) + 2, len(rows))
        places[self.numbers] = row_of[first]
        return rows, places

    def digest(self, rows: Numbers) -> str:
        """Which values, in which order: of rows [distinct values] as `by_row` gives them."""
        found = hashlib.sha256()
        for at in rows.tolist():
            content = str(self.numbers[at]).encode()
            if self.contents is not None:
                content = self.contents[at]
            found.update(len(content).to_bytes(8, "little") + content)
        return found.hexdigest()


def feed_of(
    inputs: Input,
    config: InputConfig,
    numbers: Numbers,
    cache: TrainingCache,
    image_size: int | None,
) -> Feed:
    """The values of an input, as it gives them where nothing is augmented.

    Args:
        inputs: fetches and stacks them.
        config: its settings.
        numbers: [values] of those that are used; each may be there more often.
        cache: that holds them.
        image_size: side of the model's images, in pixels.
    """
    distinct = np.unique(numbers).astype(np.int64)
    lengths = np.array([inputs.length(int(number)) for number in distinct])
    files = cache.media_files(inputs.media) if inputs.media else list(cache.digests)

    def collate(wanted: Numbers) -> Batch:
        return inputs.collate_raw(inputs.fetch_all(wanted), wanted.tolist(), None)

    return Feed(
        f"values of {config.source}",
        distinct,
        collate,
        {
            "settings": config.model_dump(mode="json"),
            "image_size": image_size,
            "files": {name: cache.digests.get(name) for name in files},
            "made": {name: cache.facts.get(name) for name in ("image_shape", "image_resize")},
        },
        lengths,
        inputs.contents(distinct),
    )
