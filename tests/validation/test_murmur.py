import random

import pyarrow as pa
import pytest

from plumbline.data.byte_columns import DistinctCells, distinct_cells
from plumbline.validation.digests import make_counted_keys, make_keys
from plumbline.validation.murmur import murmur3


def cells_of(values: list[bytes]) -> DistinctCells:
    return distinct_cells(pa.array(values, pa.binary()).dictionary_encode())


@pytest.mark.parametrize("beside", [[], [b"", b"x", b"sixteen bytes...", b"y" * 200]])
def test_hashes_are_those_that_others_compute(beside: list[bytes]) -> None:
    # Known values of mmh3.hash_bytes (x64, seed 0).
    known = {
        b"hello": "029bbd41b3a7d8cb191dae486a901e5b",
        b"The quick brown fox jumps over the lazy dog": "6c1b07bc7bbc4be347939ac4a93c437a",
    }
    hashes = murmur3(cells_of([*beside, *known]))
    assert [bytes(each).hex() for each in hashes[len(beside) :]] == list(known.values())


def test_counted_keys_are_equal_for_equal_values_alone() -> None:
    draw = random.Random(0)
    values = {draw.randbytes(size) for size in range(140) for _ in range(20)}
    # Neighbours: one byte apart, cut, and padded with zeros.
    for value in list(values):
        for at in range(0, len(value), 7):
            values.add(value[:at] + bytes([value[at] ^ 1 << at % 8]) + value[at + 1 :])
        values |= {value[:-1], value + b"\0"}
    listed = sorted(values)
    keys = make_counted_keys(cells_of(listed))
    assert len({bytes(key) for key in keys}) == len(listed)
    draw.shuffle(listed)
    again = make_counted_keys(cells_of(listed))
    assert dict(zip(sorted(values), map(bytes, keys), strict=True)) == dict(
        zip(listed, map(bytes, again), strict=True)
    )


def test_short_and_very_long_values_have_the_keys_of_ids() -> None:
    cells = cells_of([b"", b"short", b"fifteen bytes..", b"z" * 500])
    assert (make_counted_keys(cells) == make_keys(cells)).all()
