"""The history of a run on disk: rows are appended, and each state names how far its own reach."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from plumbline.errors import CheckpointError
from plumbline.training.history import History

Line = tuple[str, Mapping[str, float | int | str]]
"""A table of the history, and a row of it."""


class Extent(TypedDict):
    """The part of the file that belongs to a state: all up to somewhere."""

    bytes: int
    sha256: str


class HistoryFile:
    """JSON lines of `{table: row}`; what a state does not reach is cut off by the next one."""

    def __init__(self, path: Path) -> None:
        """Nothing of the file counts before it is read or written."""
        self.path = path
        self._taken: Counter[str] = (
            Counter()
        )  # table -> its rows that are in the file, or on the way
        self._size, self._digest = 0, hashlib.sha256()

    def take(self, history: History) -> list[Line]:
        """The rows that were never taken before, to be appended from any thread."""
        lines: list[Line] = []
        for table, rows in history.tables().items():
            lines += [(table, row) for row in rows[self._taken[table] :]]
            self._taken[table] = len(rows)
        return lines

    def append(self, lines: Sequence[Line]) -> Extent:
        """Append rows and sync them; the extent with them.

        Raises:
            OSError: they cannot be written.
        """
        # Not dump_json: rows keep the order of their columns, and a skipped step holds a NaN.
        data = "".join(json.dumps({table: row}) + "\n" for table, row in lines).encode()
        with self.path.open("ab") as file:
            # A killed run may have left rows that no state reached.
            file.truncate(self._size)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(data)
        self._digest.update(data)
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def read(self, extent: Extent, *, remedy: str) -> History:
        """The history of a state, behind which rows are appended from now on.

        Args:
            extent: what the state says of it.
            remedy: what to do where the file is damaged.

        Raises:
            CheckpointError: its bytes are not those that were written.
        """
        data = b""
        if self.path.is_file():
            with self.path.open("rb") as file:
                data = file.read(extent["bytes"])
        digest = hashlib.sha256(data)
        if len(data) != extent["bytes"] or digest.hexdigest() != extent["sha256"]:
            raise CheckpointError(
                f"{self.path}: its bytes changed after it was written, or it is gone; {remedy}"
            )
        history = History()
        tables = history.tables()
        for line in data.splitlines():
            for table, row in json.loads(line).items():
                tables[table].append(row)
        self._size, self._digest = len(data), digest
        self._taken = Counter({table: len(rows) for table, rows in tables.items()})
        return history
