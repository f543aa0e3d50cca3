"""What language models read: blocks of one stream of tokens, or rows one by one."""

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plumbline.batch import IGNORE_INDEX, Sample
from plumbline.errors import DataError
from plumbline.kinds.language.settings import TextTaskConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.random import keyed_generator
from plumbline.tokenization.tokenizer import SpecialIds

Ids = NDArray[np.integer]

logger = logging.getLogger(__name__)


def choose_rows(
    cache: TrainingCache, config: TextTaskConfig, *, may_run: bool = True
) -> Literal["stream", "packed", "padded"]:
    """How rows become samples: what the setting says, or what suits the training texts.

    Args:
        cache: texts of the train split.
        config: the setting, and the tokens of a block.
        may_run: whether rows may be one running text; questions with their answers are not.
    """
    if config.rows != "auto":
        return config.rows
    if not may_run:
        return "packed"
    numbers = cache.rows("train")["text"]
    lengths = cache.text_lengths()[numbers[numbers >= 0]]
    kept = np.minimum(lengths, config.block_size).sum()
    chosen: Literal["stream", "packed"] = "stream" if 2 * kept < lengths.sum() else "packed"
    logger.info(
        "task.rows auto: %s, of %d tokens of text rows of task.block_size = %d hold %d",
        *(chosen, lengths.sum(), config.block_size, kept),
    )
    return chosen


class TokenBlocks:
    """All texts of a split as one stream, eos between them, in blocks of equal length.

    A block begins with the last token of the one before, so that every token but the first of the
    stream is predicted once. In training the grid of blocks moves by a draw each epoch.
    """

    def __init__(
        self, cache: TrainingCache, split: str, block_size: int, *, seed: int, training: bool
    ) -> None:
        """Join the rows of a split in their order.

        Raises:
            DataError: the stream is too short for one block of training, or has no two tokens.
        """
        numbers = cache.rows(split)["text"]
        eos = SpecialIds.model_validate(cache.facts["special_ids"]).eos
        texts = [cache.ids(int(number)) for number in numbers if number >= 0]
        # eos stands between texts, not behind the last one.
        joined = [part for text in texts for part in (text, np.array([eos], text.dtype))][:-1]
        self._stream: Ids = np.concatenate(joined) if joined else np.zeros(0, np.int32)
        self._size, self._seed, self._training = block_size, seed, training
        needed = block_size + 1 if training else 2
        if len(self._stream) < needed:
            raise DataError(
                f"{cache.folder}: split {split!r} has {len(self._stream)} tokens of text, at least "
                f"{needed} are needed (task.block_size = {block_size})"
            )
        predicted = len(self._stream) - 1  # all but the first
        self._count = -(-predicted // block_size)
        if training:
            # Where there are several blocks, one is given up, so that the grid has room to move.
            self._count = max(1, predicted // block_size - 1)
        self._room = predicted - self._count * block_size

    def __len__(self) -> int:
        """Number of blocks; the last one may be short, but not in training."""
        return self._count

    def sample(self, index: int, epoch: int) -> Sample:
        """A block of up to `block_size` + 1 tokens."""
        start = index * self._size
        if self._training:
            random = keyed_generator(self._seed, "grid", epoch)
            # Of the epoch alone: one grid for all blocks, so that none overlap.
            start += int(random.integers(self._room + 1))
        ids = self._stream[start : start + self._size + 1]
        return {"index": index, "epoch": epoch, "ids": ids, "labels": ids}


class TokenRows:
    """One row after the other, framed: a text, or a question with its answer."""

    def __init__(
        self, cache: TrainingCache, split: str, block_size: int, *, question_answer: bool
    ) -> None:
        """Find the rows of a split.

        Raises:
            DataError: there is none.
        """
        self._cache, self._size, self._asks = cache, block_size, question_answer
        self._special = SpecialIds.model_validate(cache.facts["special_ids"])
        rows = cache.rows(split)
        names = ("question", "answer") if question_answer else ("text",)
        chosen = np.stack([rows[name] for name in names], axis=1)  # [rows, texts of a row]
        self._rows = chosen[(chosen >= 0).all(axis=1)]
        if question_answer:
            # A question that fills the block leaves nothing to learn (the cache counts such rows
            # where tokenize.max_tokens is set).
            fits = cache.text_lengths()[self._rows[:, 0]] + 1 <= block_size
            if not fits.all():
                logger.warning(
                    "%s: %d of %d questions of split %s fill task.block_size = %d and are left out",
                    *(cache.folder.name, int((~fits).sum()), len(fits), split, block_size),
                )
            self._rows = self._rows[fits]
        if not len(self._rows):
            raise DataError(
                f"{cache.folder}: no row with {' and '.join(names)} in split {split!r} that fits "
                f"task.block_size = {block_size}"
            )
        framed = cache.text_lengths()[self._rows].sum(axis=1) + 1
        cache.say_cut(split, framed, block_size, "rows with what frames them", "task.block_size")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def length(self, index: int) -> int:
        """Tokens of a row, framed and cut."""
        lengths = self._cache.text_lengths()[self._rows[index]]
        return min(int(lengths.sum()) + 2, self._size + 1)

    def sample(self, index: int, epoch: int) -> Sample:
        """`<bos> text <eos>`, or `question <bos> answer <eos>` with the answer labelled alone."""
        parts = [self._cache.ids(int(number)) for number in self._rows[index]]
        bos, eos = [self._special.bos], [self._special.eos]
        if self._asks:
            ids = np.concatenate([parts[0], bos, parts[1], eos])
            labels = ids.copy()
            labels[: len(parts[0]) + 1] = IGNORE_INDEX
        else:
            ids = np.concatenate([bos, parts[0], eos])
            labels = ids
        cut = slice(0, self._size + 1)
        return {"index": index, "epoch": epoch, "ids": ids[cut], "labels": labels[cut]}
