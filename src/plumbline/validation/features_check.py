"""Is a cell of features usable? Its shape is checked on the header, before any memory is taken."""

from typing import NamedTuple

from plumbline.data.arrays import EmptyArrayError, decode_features, read_array_shape
from plumbline.data.undecodable import TooCostlyError, UndecodableError
from plumbline.validation.faults import Fault, Level


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
        steps, _ = read_array_shape(data, max_bytes=limits.max_bytes)
        if steps > limits.max_steps:
            return Fault("features_too_long", f"{steps} steps, allowed are {limits.max_steps}")
        if limits.level == "full":
            decode_features(data, max_bytes=limits.max_bytes)
    except EmptyArrayError as error:
        return Fault("empty_features", str(error))
    except TooCostlyError as error:
        return Fault("features_too_long", str(error))
    except UndecodableError as error:
        return Fault("bad_features", str(error))
    return None


def too_many_feature_bytes(size: int, limits: FeatureLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("features_too_long", f"{size} bytes, allowed are {limits.max_bytes}")


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
    widths = {
        place: read_array_shape(cell)[1] for place, cell in enumerate(data) if cell is not None
    }
    if channels is None:
        channels = next((widths[place] for place in rows if place in widths), None)
    faults = {
        place: Fault("bad_features", f"{width} channels, where the dataset has {channels}")
        for place, width in widths.items()
        if width != channels
    }
    return faults, channels
