"""From encoded bytes to samples: the one decoding that validation, training and a bundle share.

Channels are averaged block by block, so that memory goes by the length of a clip and not by its
channels. A clip is good where every frame that it announces can be decoded to finite numbers.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .audio_headers import MAX_SAMPLE_RATE, MAX_SECONDS, announced_frames, sniff_audio
from .library_lines import counted_lines
from .undecodable import (
    MAX_BYTES,
    TooCostlyError,
    UndecodableError,
    check_bytes,
    hostile_bytes,
)

Samples = NDArray[np.float32]

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "AIFF", "MP3")
"""Containers that are read, told by content."""
MAX_RATE_HZ = 768_000
"""Twice the highest rate that converters are sold with."""
MAX_DECODE_NS = 1_500_000_000
"""Nanoseconds of a CPU core that decoding may take; resampling comes on top."""
MAX_LEVEL = 2.0**32
"""Greatest sample: a clip that was never scaled to -1..1, but no damage, has less."""

_BLOCK_VALUES = 2**18
_NS_PER_FRAME = 10  # what averaging takes, whatever the channels
_NS_PER_VALUE = {"OPUS": 75, "GSM610": 110, "IMA_ADPCM": 60, "MS_ADPCM": 45}
_NS_PER_OTHER_VALUE = 30


class AudioHeader(NamedTuple):
    """What a clip says of itself."""

    format: str
    rate: int
    """Frames a second."""
    channels: int
    frames: int
    is_exact: bool
    """Whether the number of frames is written, not guessed from the bytes."""

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.frames / self.rate


def read_audio_header(
    data: bytes, *, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES
) -> AudioHeader:
    """Walk the container and read its header; nothing is decoded.

    Args:
        data: an encoded clip; any bytes.
        max_seconds: the longest clip; at most `MAX_SECONDS`.
        max_bytes: the most bytes of `data`; at most `undecodable.MAX_BYTES`.

    Raises:
        UndecodableError: the bytes are no audio that is read.
        TooCostlyError: decoding would take more than the limits allow.
    """
    with _opened(data, max_seconds, max_bytes) as (_, header):
        return header


def decode_mono(
    data: bytes,
    sample_rate: int | None,
    *,
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> Samples:
    """Decode to float32 [samples], in -1..1 by rule: channels averaged, resampled.

    Args:
        data: an encoded clip; any bytes.
        sample_rate: in Hz, at most `MAX_SAMPLE_RATE`; None for the clip's own.
        max_seconds: as in `read_audio_header`.
        max_bytes: as in `read_audio_header`.

    Raises:
        UndecodableError: the bytes are no audio that is read, or not all of it can be decoded.
        TooCostlyError: decoding would take more than the limits allow; nothing was decoded.
    """
    with _opened(data, max_seconds, max_bytes) as (file, header):
        samples = _read_mono(file, header)
    if sample_rate is None or header.rate == sample_rate:
        return samples
    with hostile_bytes(header.format):
        resampled = soxr.resample(samples, header.rate, sample_rate, quality="HQ")
    # A clip shorter than a sample of the new rate keeps one.
    return np.ascontiguousarray(resampled if len(resampled) else samples[:1], dtype=np.float32)


@contextmanager
def _opened(
    data: bytes, max_seconds: float, max_bytes: int
) -> Iterator[tuple[soundfile.SoundFile, AudioHeader]]:
    check_bytes(len(data), max_bytes)
    name = sniff_audio(data)
    if name is None:
        raise UndecodableError(f"no known audio format; first bytes {data[:8].hex()}")
    with hostile_bytes(name), counted_lines(noisy=name == "MP3"):
        written = announced_frames(data, name)
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, channels, rate = int(file.frames), int(file.channels), int(file.samplerate)
            is_exact = name != "MP3" or _has_mp3_length(data)
            header = AudioHeader(str(file.format), rate, channels, frames, is_exact)
            if written is not None and written != frames:
                raise UndecodableError(f"{name}: {frames} of {written} frames can be decoded")
            _check_cost(header, str(file.subtype), max_seconds)
            yield file, header


def _check_cost(header: AudioHeader, subtype: str, max_seconds: float) -> None:
    name, rate, channels, frames, _ = header
    if name not in FORMATS or not 0 < rate <= MAX_RATE_HZ:
        raise UndecodableError(f"{name} of {rate} Hz is not supported")
    if not 0 < frames < 2**62:
        raise UndecodableError(f"{name}: holds {'no length' if frames else 'no sample'}")
    length = f"{name} of {header.seconds:.3f} s"
    allowed = min(max_seconds, MAX_SECONDS * MAX_SAMPLE_RATE / max(rate, MAX_SAMPLE_RATE))
    if header.seconds > allowed:
        raise TooCostlyError(f"{length}, allowed are {allowed:g} s")
    per_value = _NS_PER_VALUE.get(subtype, _NS_PER_OTHER_VALUE)
    work_ns = frames * (channels * per_value + _NS_PER_FRAME)
    if work_ns > MAX_DECODE_NS:
        raise TooCostlyError(
            f"{length} in {channels} channels of {rate} Hz: decoding takes some "
            f"{work_ns / 1e9:.1f} s, allowed are {MAX_DECODE_NS / 1e9:.1f}"
        )


def _read_mono(file: soundfile.SoundFile, header: AudioHeader) -> Samples:
    # A guessed length may be too short; what is more is decoded up to twice of it.
    room = header.frames if header.is_exact else 2 * header.frames + _BLOCK_VALUES
    samples, filled = np.empty(room, np.float32), 0
    block_frames = max(1, _BLOCK_VALUES // header.channels)
    while len(block := file.read(block_frames, dtype="float32", always_2d=True)):
        if filled + len(block) > room:
            raise UndecodableError(f"{header.format}: more than {header.frames} frames")
        mono = samples[filled : filled + len(block)]
        with np.errstate(over="ignore", invalid="ignore"):
            block.mean(axis=1, dtype=np.float32, out=mono)  # which overflows where no sample does
            if not (np.abs(mono) <= MAX_LEVEL).all():
                raise UndecodableError(
                    f"{header.format}: NaN, infinity or more than {MAX_LEVEL:g} among the samples"
                )
        filled += len(block)
    if not filled or (header.is_exact and filled != header.frames):
        raise UndecodableError(
            f"{header.format}: {filled} of {header.frames} frames can be decoded"
        )
    return samples[:filled]


def _has_mp3_length(data: bytes) -> bool:
    """Whether the file counts its frames; else libsndfile can only guess their number."""
    return any(data.find(mark, 0, 2**16) >= 0 for mark in (b"Xing", b"Info"))
