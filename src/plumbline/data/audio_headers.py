"""What the container of an encoded clip says of itself, checked against the bytes that are there.

libsndfile reads what is left of a clip that was cut off, and says nothing. Containers that announce
their lengths are therefore walked here.
"""

import struct
from collections.abc import Iterator
from typing import Literal

from .undecodable import TooCostlyError, UndecodableError

MAX_SAMPLE_RATE = 48_000
"""Highest rate to resample to, in Hz."""
MAX_SECONDS = 600.0
"""Longest clip; above 48 kHz proportionally less."""

AudioFormat = Literal["WAV", "AIFF", "FLAC", "OGG", "MP3"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAVE_FORMAT = struct.Struct("<HHIIHH")
_AIFF_COMMON = struct.Struct(">HIH10s")
_OGG_LAST_PAGE = 4
_UNKNOWN = 2**32 - 1
MAX_CHUNKS = 10_000

Chunks = dict[bytes, tuple[int, int]]
"""Name -> where the content of its first chunk begins, and its bytes."""


def sniff_audio(data: bytes) -> AudioFormat | None:
    """Tell the container by its first bytes; None for anything else."""
    start, kind = data[:4], data[8:12]
    if start == b"RIFF" and kind == b"WAVE":
        return "WAV"
    if start == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return "AIFF"
    if start == b"fLaC":
        return "FLAC"
    if start == b"OggS":
        return "OGG"
    # A frame of MPEG audio begins with eleven bits set; 01 in the fourth pair after is layer III.
    if data[:3] == b"ID3" or (
        len(data) > 3 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] >> 1 & 3 == 1
    ):
        return "MP3"
    return None


def announced_frames(data: bytes, name: AudioFormat) -> int | None:
    """Frames that the container's own lengths announce; None where only decoding tells.

    FLAC and MP3 announce no length in bytes: what they lack shows when they are decoded.

    Raises:
        UndecodableError: its lengths or rates contradict each other, or the bytes that are there.
    """
    if name == "WAV":
        return _wav_frames(data)
    if name == "AIFF":
        return _aiff_frames(data)
    if name == "OGG":
        _check_ogg(data)
    return None


def _wav_frames(data: bytes) -> int | None:
    chunks = _read_wav_chunks(data)
    start, size = chunks.get(b"fmt ", (0, 0))
    if size < _WAVE_FORMAT.size:
        raise UndecodableError("WAV: no chunk 'fmt ' that is whole")
    code, channels, rate, _, align, bits = _WAVE_FORMAT.unpack_from(data, start)
    if not (channels and rate and align):
        raise UndecodableError(f"WAV: {channels} channels at {rate} Hz in frames of {align} bytes")
    if b"data" not in chunks:
        raise UndecodableError("WAV: no chunk 'data'")
    start, length = chunks[b"data"]
    if not length:
        raise UndecodableError("WAV: holds no sample")
    if code not in (_PCM, _FLOAT, _EXTENSIBLE):
        return None
    if align != channels * ((bits + 7) // 8):
        raise UndecodableError(
            f"WAV: frames of {align} bytes for {channels} channels of {bits} bits"
        )
    frames, rest = divmod(length, align)
    if rest and start + length < len(data):
        raise UndecodableError(f"WAV: {length} bytes of samples in frames of {align}")
    return int(frames)


def _read_wav_chunks(data: bytes) -> Chunks:
    """The chunks of a WAV file.

    A writer that cannot go back, as to a pipe, leaves FFFFFFFF for both lengths: the samples go to
    the end of the file.
    """
    (whole,) = struct.unpack_from("<I", data, 4)
    if whole != _UNKNOWN:
        return _read_chunks(data, "<I", "WAV", b"data")
    chunks: Chunks = {}
    for name, start, size in _iter_chunks(data, "<I", "WAV"):
        if name == b"data" and size == _UNKNOWN:
            size = len(data) - start
        _check_chunk(data, name, start, size, "WAV")
        chunks.setdefault(name, (start, size))
        if name == b"data":
            break
    return chunks


def _aiff_frames(data: bytes) -> int:
    chunks = _read_chunks(data, ">I", "AIFF", b"SSND")
    start, size = chunks.get(b"COMM", (0, 0))
    if size < _AIFF_COMMON.size:
        raise UndecodableError("AIFF: no chunk 'COMM' that is whole")
    channels, frames, bits, rate = _AIFF_COMMON.unpack_from(data, start)
    if not (channels and any(rate)):
        raise UndecodableError(f"AIFF: {channels} channels, rate {rate.hex()}")
    start, size = chunks.get(b"SSND", (0, 0))
    if size < 8:
        raise UndecodableError("AIFF: no chunk 'SSND' that is whole")
    (offset,) = struct.unpack_from(">I", data, start)
    needed = frames * channels * ((bits + 7) // 8)
    if data[8:12] == b"AIFF" and needed > size - 8 - offset:
        raise UndecodableError(
            f"AIFF: {needed} bytes of samples are announced, there are {size - 8 - offset}"
        )
    if not frames:
        raise UndecodableError("AIFF: holds no sample")
    return int(frames)


def _iter_chunks(data: bytes, number: str, form: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and size of each chunk, as they are written."""
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        (size,) = struct.unpack_from(number, data, position + 4)
        yield data[position : position + 4], position + 8, size
        position += 8 + size + size % 2
    raise TooCostlyError(f"{form}: more than {MAX_CHUNKS} chunks")


def _check_chunk(data: bytes, name: bytes, start: int, size: int, form: str) -> None:
    if not all(0x20 <= byte < 0x7F for byte in name) or start + size > len(data):
        raise UndecodableError(f"{form}: a wrong length at or before the chunk at byte {start - 8}")


def _read_chunks(data: bytes, number: str, form: str, samples: bytes) -> Chunks:
    """Read the chunks of a RIFF or FORM file, up to the end that it announces.

    A writer may leave out the last padding byte, and bytes may follow the end. The end may be
    written too near, by one that added a chunk: the chunk `samples` is looked for all the same.

    Raises:
        UndecodableError: something is cut off, or a length is wrong.
    """
    (announced,) = struct.unpack_from(number, data, 4)
    end = 8 + announced
    if end > len(data) + 1:
        raise UndecodableError(f"{form}: cut off: {end} bytes are announced, there are {len(data)}")
    end = min(end, len(data))
    chunks: Chunks = {}
    position = 12
    for name, start, size in _iter_chunks(data, number, form):
        if start - 8 >= end and samples in chunks:
            break
        _check_chunk(data, name, start, size, form)
        chunks.setdefault(name, (start, size))
        position = start + size + size % 2
    if end - position > 1:
        raise UndecodableError(f"{form}: a wrong length: {end - position} bytes belong to no chunk")
    return chunks


def _check_ogg(data: bytes) -> None:
    position, flags = 0, 0
    while data[position : position + 4] == b"OggS" and position + 27 <= len(data):
        flags, segments = data[position + 5], data[position + 26]
        lengths = data[position + 27 : position + 27 + segments]
        position += 27 + segments + sum(lengths)
        if len(lengths) < segments or position > len(data):
            raise UndecodableError("OGG: cut off within a page")
    if not flags & _OGG_LAST_PAGE:
        raise UndecodableError("OGG: cut off: the last page is missing")
