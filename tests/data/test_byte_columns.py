import pyarrow as pa
import pytest

from plumbline.data.byte_columns import cell_view, cut_rows, distinct_cells, row_bytes


def dictionary(values: list[bytes | None]) -> pa.DictionaryArray:
    return pa.array(values, pa.binary()).dictionary_encode()


def test_distinct_values_give_back_every_row() -> None:
    values = [b"b", None, b"a", b"b", b"", None, b"long value"]
    cells = distinct_cells(dictionary(values), max_bytes=5)
    back = [None if n < 0 else cells.values[n] for n in cells.row_value.tolist()]
    assert back == [b"b", None, b"a", b"b", b"", None, None]
    assert cells.row_value[6] >= 0  # too long to be copied, but not null
    assert cells.lengths[cells.row_value[6]] == 10


def test_values_that_no_row_uses_are_left_out() -> None:
    column = dictionary([b"a", b"b", b"c", b"b"]).slice(1)
    assert distinct_cells(column.take(pa.array([0, 2])), 9).values == [b"b"]


@pytest.mark.parametrize("values", [[], [None, None]])
def test_columns_without_values_have_no_distinct_ones(values: list[bytes | None]) -> None:
    cells = distinct_cells(dictionary(values), 9)
    assert cells.values == []
    assert cells.row_value.tolist() == [-1] * len(values)


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
