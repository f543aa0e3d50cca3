"""The samples of classification and regression: inputs with what each part says about them.

The k-th row of every part of one input makes its k-th sample. So parts share a sample, and a row
that is there again, another label or another measurement counts as one more sample.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import Column, Sample
from plumbline.loading.cache_reader import TrainingCache, group_samples
from plumbline.loading.inputs import Input
from plumbline.loading.order import SampleShards

logger = logging.getLogger(__name__)


class HeadedRows:
    """Samples of one split; a subclass says what their targets are."""

    numbers: NDArray[np.int64]
    """[samples] numbers of the inputs in the cache."""
    rows: NDArray[np.int64]
    """[samples, parts] positions in the split of the rows that say it, -1 where none does."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        inputs: Input,
        source: str,
        parts: Sequence[str],
        known: NDArray[np.bool_],
    ) -> None:
        """Find the samples.

        Args:
            cache: of the dataset.
            split: name of the split.
            inputs: fetches the values.
            source: column that the values come from.
            parts: in the order of the targets of a sample; rows of others are left out.
            known: [rows] whether a row has a target.
        """
        self._inputs = inputs
        columns = cache.rows(split)
        part = columns["part"]
        place = np.full(len(cache.facts["parts"]) + 1, -1)  # the last one for rows without a part
        for at, name in enumerate(parts):
            if name in cache.facts["parts"]:
                place[cache.facts["parts"].index(name)] = at
        has_target = known & (place[part] >= 0)
        # [rows]: the sample that each row is part of, -1 without input or target.
        sample = group_samples(np.where(has_target, columns[source], -1), place[part])
        taken = np.flatnonzero(sample >= 0)
        self.numbers = np.zeros(int(sample.max(initial=-1)) + 1, np.int64)
        self.numbers[sample[taken]] = columns[source][taken]
        self.rows = np.full((len(self.numbers), len(parts)), -1)
        # One row at most for a sample and part: `group_samples` gives a repeat a new sample.
        self.rows[sample[taken], place[part][taken]] = taken

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.numbers)

    def fed_by(self, inputs: Input) -> Self:
        """The same samples, as another input gives their values."""
        other = copy.copy(self)
        other._inputs = inputs
        return other

    def length(self, index: int) -> int:
        """Steps or tokens of a sample."""
        return self._inputs.length(int(self.numbers[index]))

    def shards(self) -> SampleShards | None:
        """See `ShardedSource`."""
        return self._inputs.shards(self.numbers)

    def fetch(self, index: int, epoch: int) -> Sample:
        """A sample without its targets."""
        value = self._inputs.fetch(int(self.numbers[index]))
        return {"index": index, "epoch": epoch, "value": value}

    def fetch_all(self, indices: NDArray[np.int64], epoch: int) -> dict[str, Column]:
        """The same of several [samples], by column."""
        values = self._inputs.fetch_all(self.numbers[indices])
        return {"index": indices, "epoch": np.full(len(indices), epoch), "value": values}


def parts_with_samples(
    facts: Mapping[str, object], cache: TrainingCache, source: str, what: str
) -> list[str]:
    """The parts that training has a sample of, which get a head; the others are told in a line.

    Args:
        facts: what the cache says of each part.
        cache: of the dataset.
        source: column that the inputs come from.
        what: the column of the targets.
    """
    rows = cache.rows("train")
    targets = rows["label"] >= 0 if what == "label" else ~np.isnan(cache.values("train"))
    numbers = set(rows["part"][targets & (rows[source] >= 0)].tolist())
    found = [part for part in facts if cache.facts["parts"].index(part) in numbers]
    if left_out := [part for part in facts if part not in found]:
        logger.warning(
            "%s: part %s has no training row with both %s and %s, and gets no head",
            *(cache.folder, ", ".join(map(repr, left_out)), source, what),
        )
    return found
