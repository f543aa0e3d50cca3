"""Is an audio cell usable? Lengths are checked on the header, before any sample is decoded."""

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from plumbline.data.audio_formats import FORMATS
from plumbline.validation.audio_header import find_damage, sniff_audio
from plumbline.validation.faults import Fault, Level, one_line

if TYPE_CHECKING:
    import soundfile

MAX_RATE_HZ = 768_000
"""Twice the highest rate that converters are sold with."""

_BLOCK_SAMPLES = 2**18
_UNKNOWN_FRAMES = 2**62


class AudioLimits(NamedTuple):
    """How closely to look at clips, and what is still a clip to train on."""

    level: Level
    min_s: float
    max_s: float
    max_bytes: int


def check_audio(data: bytes, limits: AudioLimits) -> Fault | None:
    """Judge one clip by its bytes alone; None where it is usable.

    Levels: `cheap` looks at the length and the first bytes, `header` also at the rate and duration
    that the header gives and at the lengths of chunks, `full` also decodes every sample. Formats
    are told by content: WAV, AIFF, FLAC, OGG and MP3, of any rate, width and number of channels.
    """
    if not data:
        return Fault("null_audio", "zero bytes")
    if len(data) > limits.max_bytes:
        return too_many_audio_bytes(len(data), limits)
    name = sniff_audio(data)
    if name is None:
        return Fault("bad_audio", f"no known audio format; first bytes {data[:8].hex()}")
    if limits.level == "cheap":
        return None
    if damage := find_damage(data, name):
        return Fault("bad_audio", f"{name}: {damage}")
    # Only these levels pay for the import of libsndfile.
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            fault = _check_header(file, limits)
            if fault is None and limits.level == "full":
                fault = _decode(file, has_length=name != "MP3" or _has_mp3_length(data))
            return fault
    except (soundfile.SoundFileError, RuntimeError, ValueError, OSError, MemoryError) as error:
        return Fault("bad_audio", f"{name}: {one_line(error)}")


def too_many_audio_bytes(size: int, limits: AudioLimits) -> Fault:
    """The fault of a cell that is too large to look at, of `size` bytes."""
    return Fault("audio_too_large", f"{size} bytes, allowed are {limits.max_bytes}")


def _check_header(file: "soundfile.SoundFile", limits: AudioLimits) -> Fault | None:
    if file.format not in FORMATS or not 0 < file.samplerate <= MAX_RATE_HZ:
        return Fault("bad_audio", f"{file.format} of {file.samplerate} Hz is not supported")
    if not 0 < file.frames < _UNKNOWN_FRAMES:
        lacks = "no length" if file.frames else "no sample"
        return Fault("bad_audio", f"{file.format}: holds {lacks}")
    seconds = file.frames / file.samplerate
    length = f"{file.format} of {seconds:.3f} s"
    if seconds > limits.max_s:
        return Fault("audio_too_large", f"{length}, allowed are {limits.max_s} s")
    if seconds < limits.min_s:
        return Fault("audio_too_short", f"{length}, the shortest is {limits.min_s} s")
    return None


def _decode(file: "soundfile.SoundFile", *, has_length: bool) -> Fault | None:
    frames = 0
    block_frames = max(1, _BLOCK_SAMPLES // file.channels)
    while len(block := file.read(block_frames, dtype="float32", always_2d=True)):
        frames += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block.mean(axis=1)  # which overflows where the samples alone do not
        if not np.isfinite(mono).all():
            return Fault("bad_audio", f"{file.format}: NaN or infinity among the samples")
    if not frames or (has_length and frames != file.frames):
        return Fault("bad_audio", f"{file.format}: {frames} of {file.frames} frames can be decoded")
    return None


def _has_mp3_length(data: bytes) -> bool:
    """Whether the file counts its frames; else libsndfile can only guess their number."""
    return any(data.find(mark, 0, 2**16) >= 0 for mark in (b"Xing", b"Info"))
