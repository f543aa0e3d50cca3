"""Conversations as language models read them: all of it seen, the assistant's answers learnt."""

import logging

import numpy as np

from plumbline.batch import IGNORE_INDEX, Sample
from plumbline.errors import DataError
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.turns_reader import CachedTurns

logger = logging.getLogger(__name__)


class ChatRows:
    """One conversation after the other, each up to the last answer that fits.

    What stands behind it is left away: no answer is cut, and each one that is kept has before it
    what it has in the whole conversation, so its loss is the same.
    """

    def __init__(
        self, cache: TrainingCache, split: str, block_size: int, *, image_tokens: int | None = None
    ) -> None:
        """Find the conversations of a split.

        Args:
            cache: conversations.
            split: name of the split.
            block_size: tokens seen at most, those of images among them.
            image_tokens: that each image takes; None: of a model that sees none.

        Raises:
            DataError: there is none, or none with an answer that fits; or they show images that
                the model does not see.
        """
        rows = cache.rows(split)
        if "turns" not in rows:
            raise DataError(f"{cache.folder}: this dataset has no turns")
        self.cached = CachedTurns(cache.folder, image_tokens or 1)
        if image_tokens is None and self.cached.shows_images:
            raise DataError(f"{cache.folder}: turns show images, which tasks of kind vlm see alone")
        talks = np.flatnonzero(rows["turns"] >= 0)  # -1: the row has no conversation
        numbers = rows["turns"][talks]
        limit = block_size + 1  # the last token is predicted and not seen
        ends, whole = (self.cached.ends_within(most)[numbers] for most in (limit, 2**31 - 1))
        # [conversations of the split], as the two above; what the user says last is cut unsaid.
        fits = ends > 0
        if (cut := ends < whole).any():
            logger.warning(
                "%s: of %d conversations of split %s, %d lose their last exchanges, which do not "
                "fit task.block_size = %d, and %d are left out, since not even their first one "
                "does",
                *(cache.folder.name, len(numbers), split, int((cut & fits).sum())),
                *(block_size, int((~fits).sum())),
            )
        self._numbers, self._ends = numbers[fits], ends[fits]
        self.rows = talks[fits]
        """[conversations]: the row of the split that each one is."""
        if not len(self._numbers):
            raise DataError(
                f"{cache.folder}: no conversation in split {split!r} whose first exchange fits "
                f"task.block_size = {block_size}"
            )

    def __len__(self) -> int:
        """Number of conversations."""
        return len(self._numbers)

    def number(self, index: int) -> int:
        """Of a conversation in the cache."""
        return int(self._numbers[index])

    def length(self, index: int) -> int:
        """Tokens of a conversation, as far as it is read."""
        return int(self._ends[index])

    def sample(self, index: int, epoch: int) -> Sample:
        """A conversation: ids [tokens], and labels [tokens] of its answers and their ends."""
        number, end = self.number(index), self.length(index)
        ids = self.cached.ids(number)[:end]
        labels = np.full_like(ids, IGNORE_INDEX)
        # Answers that were cut lie behind `ids`: their slices are empty on both sides.
        for start, stop in self.cached.answers(number).tolist():
            labels[start:stop] = ids[start:stop]
        return {"index": index, "epoch": epoch, "ids": ids, "labels": labels}
