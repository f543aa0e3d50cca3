"""Feature sequences as cells: arrays [time, channels] in the bytes of an .npy file."""

import io
import math

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .undecodable import (
    MAX_BYTES,
    TooCostlyError,
    UndecodableError,
    check_bytes,
    hostile_bytes,
    one_line,
)

MAX_CHANNELS = 2**20
MAX_NUMBERS = 2**24
"""Of one array; they take 64 MiB."""
MAX_HEADER = 4096
"""Longest header of an .npy file, in bytes: it is parsed as Python."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class EmptyArrayError(UndecodableError):
    """An array without a number."""


def encode_array(values: object) -> bytes:
    """Encode numbers [channels] or [time, channels] as float32 [time, channels].

    What is no such array, such as rows of unequal length, is encoded as the reason; `decode_array`
    raises it, so that validation can report it with its row.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        return encode_reason(f"not an array of numbers ({one_line(error)})")
    # numpy would make numbers of None, of truth values and of digits in text.
    if array.dtype.kind not in "fiu":
        return encode_reason("not an array of numbers (holds null, text or truth values)")
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2:
        return encode_reason(f"{array.ndim} dimensions, [time, channels] is expected")
    buffer = io.BytesIO()
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which validation sees
        np.save(buffer, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()


def encode_reason(reason: str) -> bytes:
    """Encode why there is no array; `decode_array` raises it."""
    return b"!" + reason.encode()


def read_array_shape(cell: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Steps and channels of a cell, both at least one; no number is looked at.

    Raises:
        UndecodableError: it holds no such array; the text says what it holds.
        TooCostlyError: it has more bytes or numbers than the limits allow.
    """
    shape = _read_header(cell, max_bytes)[0]
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def decode_array(cell: bytes, *, max_bytes: int = MAX_BYTES) -> NDArray[np.float32]:
    """Decode a cell to float32 [time, channels], both at least one.

    Args:
        cell: any bytes.
        max_bytes: the most bytes of `cell`; at most `undecodable.MAX_BYTES`.

    Raises:
        UndecodableError: it holds no such array; the text says what it holds.
        EmptyArrayError: it holds one without a number.
        TooCostlyError: it has more bytes or numbers than the limits allow.
    """
    shape, by_column, dtype, start = _read_header(cell, max_bytes)
    array = np.frombuffer(cell, dtype, math.prod(shape), start).reshape(
        shape, order="F" if by_column else "C"
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(array if array.ndim == 2 else array[None, :], np.float32, order="C")


def decode_features(cell: bytes, *, max_bytes: int = MAX_BYTES) -> NDArray[np.float32]:
    """Decode a cell as `decode_array`: [steps, channels], all finite as float32.

    Raises:
        UndecodableError: as `decode_array`, or a number is not finite.
        TooCostlyError: as `decode_array`.
    """
    array = decode_array(cell, max_bytes=max_bytes)
    finite = np.isfinite(array)
    if not finite.all():
        step, channel = np.unravel_index(int(finite.argmin()), array.shape)
        raise UndecodableError(f"NaN or infinity, first at step {step} channel {channel}")
    return array


def _read_header(
    cell: bytes, max_bytes: int
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, whether it is stored by columns, type, and where the numbers begin."""
    check_bytes(len(cell), max_bytes)
    if cell[:1] == b"!":
        raise UndecodableError(cell[1:].decode("utf-8", "replace"))
    file = io.BytesIO(cell)
    with hostile_bytes("not the bytes of an .npy file"):
        read = _HEADERS[npy.read_magic(file)]
        shape, by_column, dtype = read(file, max_header_size=MAX_HEADER)
    if dtype.kind not in "fiu":
        raise UndecodableError("not an array of numbers")
    if 0 in shape and len(shape) <= 2:
        raise EmptyArrayError(f"shape {shape}")
    if not 1 <= len(shape) <= 2 or min(shape) < 1 or shape[-1] > MAX_CHANNELS:
        raise UndecodableError(f"shape {shape}, [time, channels] is expected")
    count, there = math.prod(shape), len(cell) - file.tell()
    if there != count * dtype.itemsize:
        raise UndecodableError(f"cut off: {count} numbers in {there} bytes")
    if count > MAX_NUMBERS:
        raise TooCostlyError(f"{count} numbers, allowed are {MAX_NUMBERS}")
    return shape, by_column, dtype, file.tell()
