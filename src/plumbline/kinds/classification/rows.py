"""The samples of classification: inputs with a class in each part that has one."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import IGNORE_INDEX, Columns, Sample
from plumbline.errors import DataError
from plumbline.kinds.headed.rows import HeadedRows
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import Input


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
        # -1 reads the last row, whose label the condition throws away.
        self.labels = np.where(self.rows >= 0, labels[self.rows], IGNORE_INDEX).astype(np.int64)
        """[samples, parts]; `IGNORE_INDEX` where a part says nothing of a sample."""
        for at, part in enumerate(parts):
            if classes is not None:
                self.labels[:, at] = _renumber(self.labels[:, at], part, cache, classes[part])

    def counts(self, at: int, classes: int = 0) -> list[int]:
        """Samples of each class of part number `at`, of so many classes at least."""
        labels = self.labels[:, at]
        # `IGNORE_INDEX` is below 0, which `bincount` refuses.
        counted: list[int] = np.bincount(labels[labels >= 0], minlength=classes).tolist()
        return counted

    def sample(self, index: int, epoch: int) -> Sample:
        """A value and its labels."""
        return {**self.fetch(index, epoch), "labels": self.labels[index]}

    def samples(self, indices: NDArray[np.int64], epoch: int) -> Columns:
        """The same of several [samples]."""
        return Columns({**self.fetch_all(indices, epoch), "labels": self.labels[indices]})


def _renumber(
    labels: NDArray[np.int64], part: str, cache: TrainingCache, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Labels as numbers of a model's classes, from those of the cache."""
    names = cache.classes().get(part, [])
    if names == list(classes):
        return labels
    # A dataset numbers its own classes; a model keeps the numbers that it learned.
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
