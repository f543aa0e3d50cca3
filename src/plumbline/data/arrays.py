"""Feature sequences as cells: arrays [time, channels] in the bytes of an .npy file."""

import io
import math
import tokenize
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MAX_CHANNELS = 2**20

# A header is the text of a dict, and numpy lets through what goes wrong when it is parsed.
_DAMAGE = (
    KeyError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def encode_array(values: Any) -> bytes:
    """Encode numbers [channels] or [time, channels] as float32 [time, channels].

    What is no such array, such as rows of unequal length, is encoded as the reason; `decode_array`
    raises it, so that validation can report it with its row.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        return encode_reason(f"not an array of numbers ({_one_line(error)})")
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


def decode_array(cell: bytes) -> NDArray[np.float32]:
    """Decode a cell to float32 [time, channels], both at least one.

    The cell may be anything: a header never makes this take more memory than the cell has bytes
    of numbers, twice over.

    Raises:
        ValueError: it holds no such array; the text says what it holds.
    """
    if cell[:1] == b"!":
        raise ValueError(cell[1:].decode("utf-8", "replace"))
    file = io.BytesIO(cell)
    try:
        shape, by_column, dtype = _HEADERS[npy.read_magic(file)](file)
    except _DAMAGE as error:
        raise ValueError(f"not the bytes of an .npy file ({_one_line(error)})") from None
    if dtype.kind not in "fiu":
        raise ValueError("not an array of numbers")
    if not 1 <= len(shape) <= 2 or min(shape) < 1 or shape[-1] > MAX_CHANNELS:
        raise ValueError(f"shape {shape}, [time, channels] is expected")
    count = math.prod(shape)
    if len(cell) - file.tell() != count * dtype.itemsize:
        raise ValueError(f"cut off: {count} numbers in {len(cell) - file.tell()} bytes")
    array = np.frombuffer(cell, dtype, count, file.tell()).reshape(
        shape, order="F" if by_column else "C"
    )
    with np.errstate(over="ignore"):
        return np.array(array if array.ndim == 2 else array[None, :], np.float32, order="C")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
