"""What the container of an encoded clip says of itself, checked against the bytes that are there.

libsndfile reads what is left of a clip that was cut off, and says nothing. Containers that announce
their lengths are therefore walked here.
"""

import struct
from typing import Literal

AudioFormat = Literal["WAV", "AIFF", "FLAC", "OGG", "MP3"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WAVE_FORMAT = struct.Struct("<HHIIHH")
_AIFF_COMMON = struct.Struct(">HIH10s")
_OGG_LAST_PAGE = 4


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


def find_damage(data: bytes, name: AudioFormat) -> str | None:
    """Say what is wrong with the container's own lengths and rates; None where all agrees.

    FLAC and MP3 announce no length in bytes: what they lack shows when they are decoded.
    """
    if name == "WAV":
        return _check_wav(data)
    if name == "AIFF":
        return _check_aiff(data)
    return _check_ogg(data) if name == "OGG" else None


def _check_wav(data: bytes) -> str | None:
    chunks = _read_chunks(data, "<I")
    if isinstance(chunks, str):
        return chunks
    start, size = chunks.get(b"fmt ", (0, 0))
    if size < _WAVE_FORMAT.size:
        return "no chunk 'fmt ' that is whole"
    code, channels, rate, _, align, bits = _WAVE_FORMAT.unpack_from(data, start)
    if not (channels and rate and align):
        return f"{channels} channels at {rate} Hz in frames of {align} bytes"
    if b"data" not in chunks:
        return "no chunk 'data'"
    _, length = chunks[b"data"]
    if code in (_PCM, _FLOAT, _EXTENSIBLE):
        if align != channels * ((bits + 7) // 8):
            return f"frames of {align} bytes for {channels} channels of {bits} bits"
        if length % align:
            return f"{length} bytes of samples in frames of {align}"
    return None if length else "holds no sample"


def _check_aiff(data: bytes) -> str | None:
    chunks = _read_chunks(data, ">I")
    if isinstance(chunks, str):
        return chunks
    start, size = chunks.get(b"COMM", (0, 0))
    if size < _AIFF_COMMON.size:
        return "no chunk 'COMM' that is whole"
    channels, frames, bits, rate = _AIFF_COMMON.unpack_from(data, start)
    if not (channels and any(rate)):
        return f"{channels} channels, rate {rate.hex()}"
    start, size = chunks.get(b"SSND", (0, 0))
    if size < 8:
        return "no chunk 'SSND' that is whole"
    (offset,) = struct.unpack_from(">I", data, start)
    needed = frames * channels * ((bits + 7) // 8)
    if data[8:12] == b"AIFF" and needed > size - 8 - offset:
        return f"{needed} bytes of samples are announced, there are {size - 8 - offset}"
    return None if frames else "holds no sample"


def _read_chunks(data: bytes, number: str) -> dict[bytes, tuple[int, int]] | str:
    """Name -> start and size of what each chunk of a RIFF or FORM file holds, or what is wrong.

    A writer may leave out the last padding byte, and bytes may follow the end.
    """
    (announced,) = struct.unpack_from(number, data, 4)
    end = 8 + announced
    if end > len(data) + 1:
        return f"cut off: {end} bytes are announced, there are {len(data)}"
    end = min(end, len(data))
    chunks: dict[bytes, tuple[int, int]] = {}
    position = 12
    while position + 8 <= end:
        name = data[position : position + 4]
        (size,) = struct.unpack_from(number, data, position + 4)
        position += 8
        if not all(0x20 <= byte < 0x7F for byte in name) or position + size > end:
            return f"a wrong length at or before the chunk at byte {position - 8}"
        chunks.setdefault(name, (position, size))
        position += size + size % 2
    if end - position > 1:
        return f"a wrong length: {end - position} bytes belong to no chunk"
    return chunks


def _check_ogg(data: bytes) -> str | None:
    position, flags = 0, 0
    while data[position : position + 4] == b"OggS" and position + 27 <= len(data):
        flags, segments = data[position + 5], data[position + 26]
        lengths = data[position + 27 : position + 27 + segments]
        position += 27 + segments + sum(lengths)
        if len(lengths) < segments or position > len(data):
            return "cut off within a page"
    return None if flags & _OGG_LAST_PAGE else "cut off: the last page is missing"
