"""How captions reach the text encoder of an alignment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import Batch, Column, Columns, Sample, column
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.feed import Feed
from plumbline.loading.kept_features import KEPT, KeptFeatures
from plumbline.loading.text_batches import collate_texts
from plumbline.models.encoders import raw_texts
from plumbline.tokenization.tokenizer import SpecialIds

DROPPED = -1
"""Number of the empty text, which has none of its own: all dropped captions are one text."""


def text_of(cache: TrainingCache, number: int) -> str:
    """A caption."""
    return "" if number == DROPPED else cache.text(number)


def ids_of(cache: TrainingCache, number: int) -> NDArray[np.int32]:
    """Its token ids [tokens], uncut."""
    return np.zeros(0, np.int32) if number == DROPPED else cache.ids(number)


@dataclass(frozen=True)
class Captions:
    """What a text encoder is given of captions."""

    special_ids: SpecialIds | None
    """Frame the ids; None for an encoder that takes strings."""
    max_tokens: int
    """Longer captions are cut."""
    kept: KeptFeatures | None = None
    """What a frozen encoder has made of them before."""
    strings: Callable[[Sequence[str]], Batch] = raw_texts
    """What an encoder that takes strings is given of them: its `reader`."""

    def read(self, cache: TrainingCache, numbers: Sequence[int]) -> dict[str, Column]:
        """What `collate` needs of some captions beside their numbers: [captions] by column."""
        if self.kept is not None:
            return {}
        if self.special_ids is None:
            return {"text": [text_of(cache, number) for number in numbers]}
        return {"ids": [ids_of(cache, number) for number in numbers]}

    def collate(self, samples: Sequence[Sample], chosen: Sequence[int]) -> Batch:
        """The captions of some of the samples: input_ids, attention_mask [chosen, seq].

        Of an encoder that takes strings what it reads of them; of a frozen one what it made of
        them: kept [chosen, width].
        """
        if self.kept is not None:
            # [chosen, width] in one read, however many rows that is
            return {KEPT: self.kept.gather(np.asarray(column(samples, "text_number"))[chosen])}
        if self.special_ids is None:
            texts = column(samples, "text")
            return self.strings([texts[at] for at in chosen])
        ids = column(samples, "ids")
        return collate_texts([ids[at] for at in chosen], self.special_ids, self.max_tokens)

    def feed(self, cache: TrainingCache, numbers: NDArray[np.integer]) -> Feed:
        """The distinct ones among captions with these numbers [captions]."""
        distinct = np.unique(numbers).astype(np.int64)

        def collate(wanted: NDArray[np.int64]) -> Batch:
            return self.collate(Columns(self.read(cache, wanted.tolist())), range(len(wanted)))

        contents = [self._content(cache, number) for number in distinct.tolist()]
        # Bytes of a string are as good a length as any; of ids those that are left of it.
        size = 1 if self.special_ids is None else np.dtype(np.int32).itemsize
        lengths = np.array([len(content) // size for content in contents])
        framed = self.special_ids and self.special_ids.model_dump()
        return Feed("captions", distinct, collate, {"special_ids": framed}, lengths, contents)

    def _content(self, cache: TrainingCache, number: int) -> bytes:
        if self.special_ids is None:
            return text_of(cache, number).encode("utf-8", "surrogatepass")
        # What is cut off makes no difference.
        return ids_of(cache, number)[: self.max_tokens].tobytes()
