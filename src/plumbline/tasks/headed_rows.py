"""The samples of classification and regression: inputs with what each part says about them.

The k-th row of every part of one input makes its k-th sample. So parts share a sample, and a row
that is there again, another label or another measurement counts as one more sample.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import IGNORE_INDEX, Sample
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache, group_samples
from plumbline.loading.inputs import Input

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
        sample = group_samples(np.where(has_target, columns[source], -1), place[part])
        taken = np.flatnonzero(sample >= 0)
        self.numbers = np.zeros(int(sample.max(initial=-1)) + 1, np.int64)
        self.numbers[sample[taken]] = columns[source][taken]
        self.rows = np.full((len(self.numbers), len(parts)), -1)
        self.rows[sample[taken], place[part][taken]] = taken

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.numbers)

    def length(self, index: int) -> int:
        """Steps or tokens of a sample."""
        return self._inputs.length(int(self.numbers[index]))

    def fetch(self, index: int, epoch: int) -> Sample:
        """A sample without its targets."""
        value = self._inputs.fetch(int(self.numbers[index]))
        return {"index": index, "epoch": epoch, "value": value}


class LabelledRows(HeadedRows):
    """Inputs with a class in each part that has one."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        inputs: Input,
        source: str,
        parts: Sequence[str],
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Find the labelled inputs; the first arguments are those of `HeadedRows`.

        Args:
            cache: of the dataset.
            split: name of the split.
            inputs: fetches the values.
            source: column that the values come from.
            parts: in the order of the labels of a sample.
            classes: of the model, by part, in whose order labels are numbered; None: the cache's.

        Raises:
            DataError: there is no label, or one that is no class of the model.
        """
        labels = cache.rows(split)["label"]
        super().__init__(cache, split, inputs, source, parts, labels >= 0)
        if not len(self):
            raise DataError(f"{cache.folder}: no {source} with a label in split {split!r}")
        inputs.say_cut(split, self.numbers)
        self.labels = np.where(self.rows >= 0, labels[self.rows], IGNORE_INDEX).astype(np.int64)
        """[samples, parts]; `IGNORE_INDEX` where a part says nothing of a sample."""
        for at, part in enumerate(parts):
            if classes is not None:
                self.labels[:, at] = _renumber(self.labels[:, at], part, cache, classes[part])

    def counts(self, at: int, classes: int = 0) -> list[int]:
        """Samples of each class of part number `at`, of so many classes at least."""
        labels = self.labels[:, at]
        counted: list[int] = np.bincount(labels[labels >= 0], minlength=classes).tolist()
        return counted

    def sample(self, index: int, epoch: int) -> Sample:
        """A value and its labels."""
        return {**self.fetch(index, epoch), "labels": self.labels[index]}


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


def _renumber(
    labels: NDArray[np.int64], part: str, cache: TrainingCache, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Labels as numbers of a model's classes, from those of the cache."""
    names = cache.classes().get(part, [])
    if names == list(classes):
        return labels
    place = {name: number for number, name in enumerate(classes)}
    known = labels != IGNORE_INDEX
    for number in np.unique(labels[known]).tolist():
        if names[number] not in place:
            raise DataError(
                f"{cache.folder}: label {names[number]!r} of part {part!r} is no class of the "
                f"model, which knows {', '.join(map(repr, classes))}"
            )
    renumbered = labels.copy()
    renumbered[known] = [place[names[number]] for number in labels[known].tolist()]
    return renumbered


class NumberedRows(HeadedRows):
    """Inputs with a number in each part that has one."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        inputs: Input,
        source: str,
        parts: Sequence[str],
    ) -> None:
        """Find the inputs that have a number; the arguments are those of `HeadedRows`.

        Raises:
            DataError: there is none.
        """
        values = cache.values(split)
        super().__init__(cache, split, inputs, source, parts, ~np.isnan(values))
        if not len(self):
            raise DataError(f"{cache.folder}: no {source} with a value in split {split!r}")
        inputs.say_cut(split, self.numbers)
        self.values = np.where(self.rows >= 0, values[self.rows], np.nan)
        """[samples, parts], in the units of the data; NaN where there is none."""
        weights = cache.weights(split)
        self.weights: NDArray[np.float64] | None = None
        """[samples, parts], 0 where there is no value; None where the dataset has none."""
        if weights is not None:
            self.weights = np.where(self.rows >= 0, weights[self.rows], 0.0)
            if (self.weights < 0).any():
                raise DataError(
                    f"{cache.folder}: weight {self.weights.min():g} in split {split!r}; weights "
                    "must not be negative"
                )

    def sample(self, index: int, epoch: int) -> Sample:
        """An input with its numbers, and their weights where the dataset has them."""
        weights = {} if self.weights is None else {"weights": self.weights[index]}
        return {**self.fetch(index, epoch), "targets": self.values[index], **weights}
