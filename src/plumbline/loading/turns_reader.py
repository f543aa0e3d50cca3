"""Reading the conversations of a training cache, memory-mapped."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.turns import IMAGE_ID, Turn, parse_turns

Int32 = NDArray[np.int32]
TURNS = "turns.arrow"


class CachedTurns:
    """turns.arrow of a cache whose digests have been checked.

    Ids and places are those of a model for which each image is `image_tokens` tokens.
    """

    def __init__(self, folder: Path, image_tokens: int = 1) -> None:
        """Open the file of a cache's folder."""
        table = pa.ipc.open_file(pa.memory_map(str(folder / TURNS))).read_all()
        self._turns: pa.ChunkedArray = table["turns"]
        self._ids, self._id_offsets = _flat(table["ids"])
        flat, self._offsets = _flat(table["answers"])
        # [answers of all conversations, 2]: each one's first token and the one behind its last.
        self._answers = flat.reshape(-1, 2)
        self._offsets = self._offsets // 2  # [conversations + 1]
        self._image_tokens = image_tokens
        # [images of all conversations]: where they stand among the ids of all.
        self._images = np.flatnonzero(self._ids == IMAGE_ID)
        if len(self._images):
            self._answers = self._answers + self._tokens_of_images()

    def turns(self, number: int) -> list[Turn]:
        """The turns of a conversation."""
        return parse_turns(self._turns[number].as_py())

    def ids(self, number: int) -> Int32:
        """Token ids of a conversation, `IMAGE_ID` in those of images: [tokens]."""
        ids = self._ids[self._id_offsets[number] : self._id_offsets[number + 1]]
        if not len(self._images):
            return ids
        return np.repeat(ids, np.where(ids == IMAGE_ID, self._image_tokens, 1))

    @property
    def shows_images(self) -> bool:
        """Whether any conversation does."""
        return len(self._images) > 0

    def answers(self, number: int) -> Int32:
        """Which of its tokens are learnt: [answers, 2], each from the first to before the second.

        They stand in the order of the tokens.
        """
        return self._answers[self._offsets[number] : self._offsets[number + 1]]

    def ends_within(self, limit: int) -> Int32:
        """Tokens up to the end of the last answer that ends within `limit`: [conversations].

        0 where none does; every conversation has an answer.
        """
        stops = self._answers[:, 1]  # ascending within each conversation
        fitting = np.where(stops <= limit, stops, 0)
        # `reduceat` takes the first of the next where a part is empty; none is.
        ends: Int32 = np.maximum.reduceat(fitting, self._offsets[:-1])
        return ends

    def _tokens_of_images(self) -> Int32:
        """How many more tokens the images before each answer take than the cache has: [answers, 1].

        Only users show images, so there are as many before an answer's end.
        """
        talks = np.repeat(np.arange(len(self._id_offsets) - 1), np.diff(self._offsets))
        begins = self._id_offsets[talks]  # [answers], each conversation's in the ids of all
        before = np.searchsorted(self._images, begins + self._answers[:, 0])
        shown = before - np.searchsorted(self._images, begins)
        more: Int32 = (shown * (self._image_tokens - 1)).astype(np.int32)
        return more[:, None]


def _flat(column: pa.ChunkedArray) -> tuple[Int32, Int32]:
    """The values of all lists end to end, and where each list begins: [lists + 1]."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    return lists.values.to_numpy(), lists.offsets.to_numpy()
