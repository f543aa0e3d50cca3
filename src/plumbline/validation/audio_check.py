"""Is an audio cell usable? Lengths are checked on the header, before any sample is decoded."""

from typing import NamedTuple

from plumbline.data.audio_headers import sniff_audio
from plumbline.data.undecodable import TooCostlyError, UndecodableError
from plumbline.validation.faults import Fault, Level


class AudioLimits(NamedTuple):
    """How closely to look at clips, and what is still a clip to train on."""

    level: Level
    min_s: float
    max_s: float
    max_bytes: int


def check_audio(data: bytes, limits: AudioLimits) -> Fault | None:
    """Judge one clip by its bytes alone; None where it is usable.

    Levels: `cheap` looks at the length and the first bytes, `header` also at what the header says
    of rate, length and channels and at the lengths of chunks, `full` also decodes every sample, by
    the one decoder of `data.audio`.
    """
    if not data:
        return Fault("null_audio", "zero bytes")
    if len(data) > limits.max_bytes:
        return too_many_audio_bytes(len(data), limits)
    if limits.level == "cheap":
        if sniff_audio(data) is None:
            return Fault("bad_audio", f"no known audio format; first bytes {data[:8].hex()}")
        return None
    # Only these levels pay for the import of libsndfile.
    from plumbline.data.audio import decode_mono, read_audio_header

    try:
        header = read_audio_header(data, max_seconds=limits.max_s, max_bytes=limits.max_bytes)
        if header.seconds < limits.min_s:
            length = f"{header.format} of {header.seconds:.3f} s"
            return Fault("audio_too_short", f"{length}, the shortest is {limits.min_s} s")
        if limits.level == "full":
            decode_mono(data, None, max_seconds=limits.max_s, max_bytes=limits.max_bytes)
    except TooCostlyError as error:
        return Fault("audio_too_large", str(error))
    except UndecodableError as error:
        return Fault("bad_audio", str(error))
    return None


def too_many_audio_bytes(size: int, limits: AudioLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("audio_too_large", f"{size} bytes, allowed are {limits.max_bytes}")
