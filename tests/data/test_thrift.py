"""Footers and headers of Parquet are read for what is wanted of them, and no more is kept."""

import tracemalloc

import pytest

from plumbline.data.thrift import ThriftReader, int_of, list_of, struct_of, text_of
from tests.data.forged_parquet import BINARY, I32, I64, LIST, STRUCT, TRUE, Fields, encode

WIDE: Fields = {
    1: (I32, -3),
    2: (LIST, (STRUCT, [{1: (I64, row), 2: (BINARY, b"name")} for row in range(20)])),
    3: (STRUCT, {1: (STRUCT, {4: (I64, 2**40)}), 2: (TRUE, True)}),
    40: (LIST, (TRUE, [1, 2, 1])),
    41: (BINARY, b"text"),
}


def test_what_is_wanted_reads_as_in_the_whole() -> None:
    data = encode(WIDE)
    whole = ThriftReader(data).struct()
    assert (int_of(whole, 1), text_of(whole, 41), int_of(whole, 99)) == (-3, "text", 0)
    assert [int_of(item, 1) for item in list_of(whole, 2)] == list(range(20))
    reader = ThriftReader(data + b"behind")
    some = reader.struct({2: {1: None}, 3: {1: None}, 99: None})
    assert data[reader.place :] == b""
    assert some == {2: [{1: row} for row in range(20)], 3: {1: {4: 2**40}}}
    assert int_of(struct_of(struct_of(some, 3), 1), 4) == 2**40


def test_passing_over_a_value_ends_where_reading_it_does() -> None:
    data = encode(WIDE)
    read, passed = ThriftReader(data), ThriftReader(data)
    read.struct()
    passed.skip(STRUCT)
    assert read.place == passed.place == len(data)


def test_a_field_that_nobody_knows_takes_no_memory() -> None:
    data = encode({1: (I32, 7), 15: (LIST, (STRUCT, [{}] * 200_000))})
    tracemalloc.start()
    try:
        assert ThriftReader(data).struct({1: None}) == {1: 7}
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opened", [bytes([0x1C]), bytes([0x19, 0x19]), bytes([0x19, 0x1C])])
def test_what_is_nested_without_end_is_refused_wherever_it_stands(opened: bytes) -> None:
    data = opened * 5000
    for wanted in (None, {}):
        with pytest.raises(ValueError, match="nested too deep"):
            ThriftReader(data).struct(wanted)


def test_something_else_than_is_expected_is_damage() -> None:
    with pytest.raises(ValueError, match="field 1 is no list"):
        list_of({1: 3}, 1)
