"""Reading the conversations of a training cache, memory-mapped."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.turns import Turn, parse_turns

Int32 = NDArray[np.int32]
TURNS = "turns.arrow"


class CachedTurns:
    """turns.arrow of a cache whose digests have been checked."""

    def __init__(self, folder: Path) -> None:
        """Open the file of a cache's folder."""
        table = pa.ipc.open_file(pa.memory_map(str(folder / TURNS))).read_all()
        self._turns: pa.ChunkedArray = table["turns"]
        self._ids, self._id_offsets = _flat(table["ids"])
        flat, self._offsets = _flat(table["answers"])
        # [answers of all conversations, 2]: each one's first token and the one behind its last.
        self._answers = flat.reshape(-1, 2)
        self._offsets = self._offsets // 2  # [conversations + 1]

    def turns(self, number: int) -> list[Turn]:
        """The turns of a conversation."""
        return parse_turns(self._turns[number].as_py())

    def ids(self, number: int) -> Int32:
        """Token ids of a conversation: [tokens]."""
        return self._ids[self._id_offsets[number] : self._id_offsets[number + 1]]

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


def _flat(column: pa.ChunkedArray) -> tuple[Int32, Int32]:
    """The values of all lists end to end, and where each list begins: [lists + 1]."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    return lists.values.to_numpy(), lists.offsets.to_numpy()
