"""Arrays survive as cells bit for bit, and a cell of any bytes is an array or a reason."""

import io

import numpy as np
import pytest

from plumbline.data.arrays import decode_array, encode_array


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_sequences_come_back_and_vectors_are_one_step() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    values[0, 0] = np.nan
    np.testing.assert_array_equal(decode_array(encode_array(values)), values)
    np.testing.assert_array_equal(decode_array(encode_array(values.T)), values.T)
    assert decode_array(encode_array([1, 2])).tolist() == [[1.0, 2.0]]
    assert decode_array(encode_array([[1], [2]])).dtype == np.float32


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<i2", "|u1", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_of_any_numbers_are_read(kind: str, order: str) -> None:
    array = np.asarray([[1, 2, 3], [4, 5, 6]], kind, order=order)  # type: ignore[call-overload]
    decoded = decode_array(npy(array))
    assert decoded.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert decoded.flags.c_contiguous
    decoded += 1  # it is the caller's own


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1], [2, 3]], "not an array of numbers"),
        ([1, None], "null"),
        ([[1, 2], None], "not an array of numbers"),
        (["1", "2"], "text"),
        ([True, False], "truth values"),
        ([10**400], "not an array of numbers"),
        ([[[1]]], "3 dimensions"),
        (5, "0 dimensions"),
        ([], "shape"),
        ([[], []], "shape"),
    ],
)
def test_what_is_no_array_keeps_its_reason(values: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_array(encode_array(values))


def test_what_is_too_large_is_infinite() -> None:
    assert np.isinf(decode_array(encode_array([1e300]))).all()
    assert np.isinf(decode_array(npy(np.array([1e300])))).all()


GOOD = npy(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"", "not the bytes"),
        (b"RIFFxxxx", "not the bytes"),
        (GOOD[:20], "not the bytes"),
        (GOOD[:-1], "cut off: 6 numbers in 23 bytes"),
        (GOOD + b"x", "cut off"),
        (GOOD.replace(b"(2, 3)", b"(9**9,"), "not the bytes"),
        (GOOD.replace(b"(2, 3), }   ", b"(2, 999999),"), "."),
        (GOOD.replace(b"'<f4'", b"'|O4'"), "."),
        (npy(np.array([{}]), allow_pickle=True), "not an array of numbers"),
        (npy(np.array(["x"])), "not an array of numbers"),
        (npy(np.array(1.0)), "shape"),
        (npy(np.ones((1, 1, 1))), "shape"),
        (npy(np.ones((0, 3))), "shape"),
        (npy(np.zeros(2, [("a", "<f4")])), "not an array of numbers"),
    ],
)
def test_any_other_bytes_are_refused_with_a_reason(cell: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_array(cell)


def test_a_header_that_promises_too_much_takes_no_memory() -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2), }"
    header += b" " * (117 - len(header)) + b"\n"
    with pytest.raises(ValueError, match="cut off: 2000000000000 numbers in 0 bytes"):
        decode_array(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
