"""Features are judged by their bytes alone (FD34, FS03)."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plumbline.data.arrays import decode_array, encode_array
from plumbline.validation.features_check import FeatureLimits, check_features, find_other_widths

LIMITS = FeatureLimits("full", max_steps=50, max_bytes=2**16)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def reason(data: bytes, **limits: Any) -> str | None:
    found = check_features(data, LIMITS._replace(**limits))
    return found and found.reason


def ramp(steps: int, channels: int) -> list[list[float]]:
    return [[step + channel / 10 for channel in range(channels)] for step in range(steps)]


GOOD: dict[str, Callable[[], bytes]] = {
    "steps and channels": lambda: encode_array(ramp(5, 3)),
    "one step": lambda: encode_array([1.0, 2.0]),
    "one number": lambda: encode_array([1.0]),
    "at the limit": lambda: encode_array(ramp(50, 2)),
    "channels alone": lambda: npy(np.arange(80.0)),
    "float64": lambda: npy(np.ones((3, 2))),
    "float16": lambda: npy(np.ones((3, 2), np.float16)),
    "integers": lambda: npy(np.ones((3, 2), np.int64)),
    "columns first": lambda: npy(np.asfortranarray(np.ones((3, 2)))),
    "big endian": lambda: npy(np.ones((3, 2), ">f4")),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_features_pass_at_every_level_and_can_be_decoded(name: str) -> None:
    data = GOOD[name]()
    assert [reason(data, level=level) for level in ("cheap", "header", "full")] == [None] * 3
    assert decode_array(data).ndim == 2


def bomb() -> bytes:
    """A file of some bytes whose header asks for four terabytes."""
    data = npy(np.zeros((10, 10), np.float32))
    return data.replace(b"(10, 10), }        ", b"(1000000, 1000000)}", 1)


BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "nan": (lambda: encode_array([[1.0, 2.0], [3.0, float("nan")]]), "bad_features", "step 1 ch"),
    "infinity": (lambda: encode_array([[float("-inf")]]), "bad_features", "NaN or infinity"),
    "beyond float32": (lambda: npy(np.full((2, 2), 1e300)), "bad_features", "NaN or infinity"),
    "ragged": (lambda: encode_array([[1.0, 2.0], [3.0]]), "bad_features", "inhomogeneous"),
    "words": (lambda: encode_array([["a", "b"]]), "bad_features", "not an array of numbers"),
    "three dimensions": (lambda: encode_array(np.ones((2, 2, 2))), "bad_features", "3 dimensions"),
    "three dimensions in npy": (lambda: npy(np.ones((2, 2, 2))), "bad_features", "(2, 2, 2)"),
    "no dimension": (lambda: npy(np.float32(1)), "bad_features", "shape ()"),
    "text": (lambda: npy(np.array([["a"]])), "bad_features", "not an array of numbers"),
    "truth": (lambda: npy(np.array([[True]])), "bad_features", "not an array of numbers"),
    "complex": (lambda: npy(np.ones((2, 2), complex)), "bad_features", "not an array of numbers"),
    "objects": (
        lambda: npy(np.array([[print]], object), allow_pickle=True),
        "bad_features",
        "not an array of numbers",
    ),
    "other bytes": (lambda: b"1.0,2.0", "bad_features", "not the bytes of an .npy file"),
    "magic alone": (lambda: b"\x93NUMPY", "bad_features", ""),
    "garbage header": (lambda: b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 40, "bad_features", ""),
    "unknown version": (lambda: b"\x93NUMPY\x09\x00" + bytes(90), "bad_features", "(9, 0)"),
    "cut off": (lambda: encode_array(ramp(9, 3))[:-4], "bad_features", "27 numbers in 104 bytes"),
    "bytes after the end": (
        lambda: encode_array(ramp(9, 3)) + b"1234",
        "bad_features",
        "27 numbers in 112 bytes",
    ),
    "memory bomb": (bomb, "bad_features", "1000000000000 numbers in"),
    "zero bytes": (lambda: b"", "null_features", "zero bytes"),
    "no step": (lambda: npy(np.ones((0, 3))), "empty_features", "(0, 3)"),
    "no channel": (lambda: npy(np.ones((3, 0))), "empty_features", "(3, 0)"),
    "empty list": (lambda: encode_array([]), "empty_features", "(1, 0)"),
    "too many steps": (lambda: encode_array(ramp(51, 2)), "features_too_long", "51 steps"),
    "too many bytes": (lambda: encode_array(np.ones(20_000)), "features_too_long", "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_faulty_features_are_found_with_the_reason(name: str) -> None:
    make, expected, part = BAD[name]
    found = check_features(make(), LIMITS)
    assert found is not None
    assert found.reason == expected
    assert part in found.detail
    assert "\n" not in found.detail


@pytest.mark.parametrize("name", GOOD)
def test_no_cut_crashes(name: str) -> None:
    data = GOOD[name]()
    for length in range(len(data)):
        assert reason(data[:length]) in ("bad_features", "null_features")


def test_only_the_full_level_looks_at_numbers() -> None:
    data = encode_array([[float("nan")]])
    assert [reason(data, level=level) for level in ("cheap", "header", "full")] == [
        None,
        None,
        "bad_features",
    ]


def test_the_first_row_says_how_many_channels_there_are() -> None:
    cells = [encode_array(ramp(2, channels)) for channels in (3, 2, 3)]
    faults, channels = find_other_widths([*cells, None], [3, -1, 1, 0, 2], None)
    assert channels == 2
    assert sorted(faults) == [0, 2]
    assert faults[0].detail == "3 channels, where the dataset has 2"
    assert find_other_widths([*cells], [1, 0], 3) == (
        {1: faults[0]._replace(detail="2 channels, where the dataset has 3")},
        3,
    )
    assert find_other_widths([None], [-1, 0], None) == ({}, None)
