"""Columns of a batch once their distinct values have been judged, and what that says of rows."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from plumbline.data.byte_columns import DistinctCells
from plumbline.validation.faults import Fault
from plumbline.validation.notes import REASONS

GOOD, NULL, FAULTY = 0, 1, 2

Bools = NDArray[np.bool_]
Longs = NDArray[np.int64]


class Judged(NamedTuple):
    """A column of a batch, judged by its distinct values."""

    rows: Longs
    """[rows]: position of each row's value; -1 where the cell is null."""
    cells: DistinctCells
    faults: Mapping[int, Fault]
    """By position of the value, -1 for the null."""
    digests: NDArray[np.uint8] | None = None
    """[values, 17]: of media, where they were needed to judge."""
    altered: Collection[int] = ()
    """Positions of the values that are not in their clean form."""

    def ranks(self) -> NDArray[np.int8]:
        """Say of each row whether its cell is good, null or faulty: [rows]."""
        of_value = np.zeros(max(int(self.rows.max(initial=-1)), *self.faults, -1) + 2, np.int8)
        of_value[list(self.faults)] = FAULTY
        of_value[-1] = NULL
        return of_value[self.rows]

    def is_altered(self) -> Bools:
        """Whether the cell of each row is not in its clean form: [rows]."""
        of_value = np.zeros(len(self.cells.starts) + 1, bool)
        of_value[list(self.altered)] = True
        return of_value[self.cells.row_value]  # the last place is that of the null, -1

    def good(self, row: int) -> bytes | None:
        """The cell of a row; None where it is of no use."""
        at = int(self.rows[row])
        return None if at < 0 or at in self.faults else self.cells.value(at)


class RowFaults:
    """The fault of each row: the first that is found."""

    def __init__(self, rows: int) -> None:
        """Begin without any."""
        self._of_row = np.full(rows, -1)
        self._found: list[Fault] = []

    @property
    def good(self) -> Bools:
        """Which rows have none so far: [rows]."""
        return np.asarray(self._of_row < 0)

    def blame(self, column: Judged, where: Bools | None = None) -> None:
        """Give the rows `where` [rows], or all, the faults of their cells in a column."""
        if not column.faults:
            return
        self.give(column.rows, column.faults, where)

    def give(self, places: Longs, faults: Mapping[int, Fault], where: Bools | None = None) -> None:
        """Give rows faults by position, [rows]; those at a position without one stay good."""
        rows = np.flatnonzero(self.good if where is None else self.good & where)
        if not len(rows):
            return
        numbers = np.full(max(int(places.max(initial=-1)), *faults, -1) + 2, -1)
        numbers[list(faults)] = len(self._found) + np.arange(len(faults))
        self._of_row[rows] = numbers[places[rows]]
        self._found += faults.values()

    def columns(self) -> tuple[pa.Array, pa.Array]:
        """The number of each row's reason, and what it says: null for good rows."""
        codes = [REASONS.index(fault.reason) for fault in self._found]
        places = pa.array(self._of_row, mask=self.good)
        reason, detail = pa.array(codes, pa.int8()), [fault.detail for fault in self._found]
        return reason.take(places), pa.array(detail, pa.string()).take(places)
