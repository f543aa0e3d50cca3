"""Is a cell of features usable? Its shape is checked on the header, before any memory is taken."""

import io
import tokenize
from typing import NamedTuple

import numpy as np

from plumbline.data.arrays import decode_array
from plumbline.validation.faults import Fault, Level, one_line

_MAGIC = b"\x93NUMPY"

# A header is the text of a dict, and numpy lets what goes wrong in parsing it through.
_PARSE_ERRORS = (
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


class FeatureLimits(NamedTuple):
    """How closely to look at features, and how long they may be."""

    level: Level
    max_steps: int
    max_bytes: int


def check_features(data: bytes, limits: FeatureLimits) -> Fault | None:
    """Judge one array by its bytes alone; None where it is usable.

    Below the level `full`, the numbers are not searched for NaN and infinity.
    """
    if not data:
        return Fault("null_features", "zero bytes")
    if len(data) > limits.max_bytes:
        return too_many_feature_bytes(len(data), limits)
    try:
        shape = read_shape(data)
        if 0 in shape:
            return Fault("empty_features", f"shape {shape}")
        if shape[0] > limits.max_steps and len(shape) == 2:
            return Fault("features_too_long", f"{shape[0]} steps, allowed are {limits.max_steps}")
        if limits.level != "full":
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            array = decode_array(data)
    except _PARSE_ERRORS as error:
        return Fault("bad_features", one_line(error))
    if not np.isfinite(array).all():
        step, channel = np.argwhere(~np.isfinite(array))[0].tolist()
        return Fault("bad_features", f"NaN or infinity, first at step {step} channel {channel}")
    return None


def too_many_feature_bytes(size: int, limits: FeatureLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("features_too_long", f"{size} bytes, allowed are {limits.max_bytes}")


def read_shape(data: bytes) -> tuple[int, ...]:
    """Read the shape that the header gives: (time, channels) or (channels,).

    Raises:
        ValueError: there is none, or there are not the bytes for it, for which numpy would
            allocate memory all the same.
    """
    if data[:1] == b"!":
        decode_array(data)  # which raises the reason that stands there
    file = io.BytesIO(data)
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"not the bytes of an .npy file; first bytes {data[:8].hex()}")
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, kind = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the .npy format")
    if kind.hasobject or kind.kind not in "fiu":
        raise ValueError(f"not an array of numbers but of {kind}")
    if len(shape) not in (1, 2) or min(shape) < 0:
        raise ValueError(f"shape {shape}, (time, channels) is expected")
    size, there = kind.itemsize * int(np.prod(shape, dtype=object)), len(data) - file.tell()
    if size != there:
        raise ValueError(f"shape {shape} takes {size} bytes, there are {there}")
    return tuple(map(int, shape))


def find_other_widths(
    data: list[bytes | None], rows: list[int], channels: int | None
) -> tuple[dict[int, Fault], int | None]:
    """Find the arrays whose number of channels is not that of the others.

    Args:
        data: distinct cells; None for one that is not good.
        rows: position in `data` of each row's cell, in row order; -1 for none.
        channels: what they must have; None to take the first row's.

    Returns:
        The faults by position in `data`, and the number of channels, if there is one by now.
    """
    widths = {place: read_shape(cell)[-1] for place, cell in enumerate(data) if cell is not None}
    if channels is None:
        channels = next((widths[place] for place in rows if place in widths), None)
    faults = {
        place: Fault("bad_features", f"{width} channels, where the dataset has {channels}")
        for place, width in widths.items()
        if width != channels
    }
    return faults, channels
