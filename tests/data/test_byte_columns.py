import numpy as np
import pyarrow as pa
import pytest

from plumbline.data.byte_columns import (
    DistinctCells,
    cell_view,
    cut_rows,
    distinct_cells,
    row_bytes,
)


def dictionary(values: list[bytes | None]) -> pa.DictionaryArray:
    return pa.array(values, pa.binary()).dictionary_encode()


def held(cells: DistinctCells) -> list[bytes]:
    return [cells.value(at) for at in range(len(cells.starts))]


def test_distinct_values_give_back_every_row() -> None:
    values = [b"b", None, b"a", b"b", b"", None, b"long value"]
    cells = distinct_cells(dictionary(values))
    assert [None if n < 0 else held(cells)[n] for n in cells.row_value.tolist()] == values
    assert cells.lengths.tolist() == [1, 1, 0, 10]
    assert list(map(bytes, cells.views(np.array([3, 0])))) == [b"long value", b"b"]


def test_values_that_no_row_uses_are_left_out() -> None:
    column = dictionary([b"a", b"b", b"c", b"b"]).slice(1)
    cells = distinct_cells(column.take(pa.array([0, 2])))
    assert held(cells) == [b"b"]
    assert cells.row_value.tolist() == [0, 0]


@pytest.mark.parametrize("values", [[], [None, None]])
def test_columns_without_values_have_no_distinct_ones(values: list[bytes | None]) -> None:
    cells = distinct_cells(dictionary(values))
    assert held(cells) == []
    assert cells.row_value.tolist() == [-1] * len(values)


@pytest.mark.parametrize("size", [1, 4, 15, 40])
def test_first_bytes_end_in_zeros_where_a_value_does(size: int) -> None:
    values = [b"", b"a", b"bcd", b"efghijklm", b"n" * 30, b"", b"o\0p", b"q"]
    for column in (dictionary(values), dictionary([b"in front", *values]).slice(1)):
        cells = distinct_cells(column)
        expected = [value[:size].ljust(size, b"\0") for value in held(cells)]
        assert [bytes(head) for head in cells.heads(size)] == expected


def test_values_with_a_byte_of_a_table_are_found() -> None:
    table = np.zeros(256, bool)
    table[list(b"xz")] = True
    cells = distinct_cells(dictionary([b"xylophone", b"", b"abc", b"z", b"bz"]).slice(1))
    assert cells.may_have(table).tolist() == [False, False, True, True]


def test_values_are_replaced_in_their_places() -> None:
    cells = distinct_cells(dictionary([b"one", b"two", b"three"]))
    changed = cells.replaced({1: b"", 2: b"four"})
    assert held(changed) == [b"one", b"", b"four"]
    assert held(cells) == [b"one", b"two", b"three"]


def test_a_cell_is_seen_without_a_copy_of_it() -> None:
    column = dictionary([b"one", None, b"", b"two"]).slice(1)
    seen = [cell_view(column, row) for row in range(3)]
    assert [None if cell is None else bytes(cell) for cell in seen] == [None, b"", b"two"]
    part = pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([b"a", b"bc"]).slice(1))
    assert bytes(cell_view(part, 0) or b"") == b"bc"
    empty = cell_view(dictionary([b""]), 0)
    assert empty is not None
    assert bytes(empty) == b""


def test_rows_weigh_what_they_decode_to() -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "plain": pa.array(["ab", None, "\u4f60"]),
            "coded": dictionary([b"x" * 100, b"x" * 100, None]),
            "number": pa.array([1, 2, None]),
        }
    )
    assert row_bytes(batch).tolist() == [110, 108, 11]
    assert list(cut_rows(batch, 120)) == [(0, 1), (1, 3)]
    assert list(cut_rows(batch, 1)) == [(0, 1), (1, 2), (2, 3)]
    assert list(cut_rows(batch, 1000)) == [(0, 3)]


def test_a_piece_is_filled_to_the_last_byte() -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["four", "four", "four", "fives", "four"]})
    assert list(cut_rows(batch, 8)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(cut_rows(batch, 9)) == [(0, 2), (2, 4), (4, 5)]
