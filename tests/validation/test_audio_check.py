"""Clips are judged by their bytes alone."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from plumbline.data.audio import decode_mono
from plumbline.validation.audio_check import AudioLimits, check_audio
from plumbline.validation.faults import Level
from tests.validation.clips import clip, encode, patch, tone

LIMITS = AudioLimits("full", min_s=0.01, max_s=2.0, max_bytes=2**20)
LEVELS: tuple[Level, ...] = ("cheap", "header", "full")

RIFF_SIZE, CHANNELS, RATE, ALIGN, DATA_SIZE = 4, 22, 24, 32, 40
"""Places of numbers in the 44 bytes before the samples of a plain WAV."""


def reason(data: bytes, level: Level = "full") -> str | None:
    found = check_audio(data, LIMITS._replace(level=level))
    return found and found.reason


GOOD: dict[str, Callable[[], bytes]] = {
    "wav 8 kHz mono": lambda: encode(),
    "wav 44.1 kHz stereo": lambda: encode(tone(rate=44_100, channels=2), 44_100),
    "wav 8 bit": lambda: encode(subtype="PCM_U8"),
    "wav 24 bit": lambda: encode(subtype="PCM_24"),
    "wav float": lambda: encode(subtype="FLOAT"),
    "wav double": lambda: encode(subtype="DOUBLE"),
    "wav mu-law": lambda: encode(subtype="ULAW"),
    "wav adpcm": lambda: encode(subtype="IMA_ADPCM"),
    "wav of an odd number of bytes": lambda: encode(tone()[:801], subtype="PCM_U8"),
    "wav without the padding byte": lambda: encode(tone()[:801], subtype="PCM_U8")[: 44 + 801],
    "wav and more bytes": lambda: encode() + b"trailing bytes",
    "wav with another chunk": lambda: with_chunk(encode(), b"LIST", b"INFOsome text "),
    "wav with a file of no length": lambda: patch(encode(), RIFF_SIZE, "<I", 0),
    "wav with too short a file": lambda: patch(encode(), RIFF_SIZE, "<I", 500),
    "wav with a chunk that the file's length leaves out": lambda: patch(
        with_chunk(encode(), b"LIST", b"INFO"), RIFF_SIZE, "<I", len(encode()) - 8
    ),
    "wav from a pipe": lambda: piped(encode()),
    "wav from a pipe with another chunk": lambda: piped(with_chunk(encode(), b"LIST", b"INFO"), 52),
    "wav gsm": lambda: encode(subtype="GSM610"),
    "flac": lambda: encode(container="FLAC"),
    "ogg": lambda: encode(container="OGG"),
    "aiff": lambda: encode(container="AIFF"),
    "aiff 24 bit stereo": lambda: encode(tone(channels=2), container="AIFF", subtype="PCM_24"),
    "mp3": lambda: encode(container="MP3"),
    "silence": lambda: encode(np.zeros(800, np.float32)),
}


def piped(data: bytes, data_size: int = DATA_SIZE) -> bytes:
    """As a writer that cannot go back leaves the lengths: unknown."""
    return patch(patch(data, RIFF_SIZE, "<I", 2**32 - 1), data_size, "<I", 2**32 - 1)


def with_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    chunk = name + struct.pack("<I", len(body)) + body
    return patch(data[:36] + chunk + data[36:], RIFF_SIZE, "<I", len(data) + len(chunk) - 8)


@pytest.mark.parametrize("name", GOOD)
def test_good_clips_pass_at_every_level_and_can_be_decoded(name: str) -> None:
    data = GOOD[name]()
    assert [reason(data, level) for level in LEVELS] == [None] * 3
    assert len(decode_mono(data, 8000))


def cut(data: bytes, count: int = 10) -> bytes:
    return data[:-count]


def float_wav(value: float, channels: int = 1) -> bytes:
    samples = tone(channels=channels)
    samples[77] = value
    return encode(samples, subtype="FLOAT")


BAD: dict[str, Callable[[], bytes]] = {
    "html": lambda: b"<!DOCTYPE html><html></html>",
    "random bytes": lambda: bytes(i * 37 % 256 for i in range(500)),
    "one byte": lambda: b"R",
    "riff of something else": lambda: b"RIFF" + bytes(4) + b"AVI " + bytes(100),
    "wav cut in half": lambda: encode()[: len(encode()) // 2],
    "wav cut by one frame": lambda: cut(encode(), 2),
    "wav cut in its header": lambda: encode()[:30],
    "wav of the header alone": lambda: encode()[:44],
    "wav that says it has no sample": lambda: encode(np.zeros(0, np.float32)),
    "wav with no chunk at all": lambda: b"RIFF\x04\0\0\0WAVE",
    "wav of rate 0": lambda: patch(encode(), RATE, "<I", 0),
    "wav of an absurd rate": lambda: patch(encode(), RATE, "<I", 2**31 - 1),
    "wav of no channel": lambda: patch(encode(), CHANNELS, "<H", 0),
    "wav of frames of no byte": lambda: patch(encode(), ALIGN, "<H", 0),
    "wav of frames of wrong length": lambda: patch(encode(), ALIGN, "<H", 3),
    "wav with too long data": lambda: patch(encode(), DATA_SIZE, "<I", 2**31),
    "wav with endless data": lambda: patch(encode(), DATA_SIZE, "<I", 2**32 - 1),
    "wav with too short data": lambda: patch(encode(), DATA_SIZE, "<I", 1000),
    "wav with data of no length": lambda: patch(encode(), DATA_SIZE, "<I", 0),
    "wav with half a frame": lambda: patch(encode(), DATA_SIZE, "<I", len(encode()) - 45),
    "wav with too long a file": lambda: patch(encode(), RIFF_SIZE, "<I", 2**30),
    "nan": lambda: float_wav(float("nan")),
    "infinity": lambda: float_wav(float("-inf")),
    "samples whose mean overflows": lambda: float_wav(3e38, channels=2),
    "flac cut off": lambda: cut(encode(container="FLAC")),
    "flac without a length": lambda: flac_without_length(),
    "flac that announces too much": lambda: patch(encode(container="FLAC"), 22, ">I", 9000),
    "ogg cut in half": lambda: encode(container="OGG")[:2500],
    "ogg without its last page": lambda: without_last_page(encode(tone(1.5), container="OGG")),
    "aiff cut off": lambda: cut(encode(container="AIFF")),
    "mp3 cut off": lambda: cut(encode(tone(1.0), container="MP3"), 700),
    "mp3 mark and garbage": lambda: b"ID3\x03" + bytes(range(200)),
    "rf64": lambda: encode(container="RF64"),
}


def flac_without_length() -> bytes:
    data = encode(container="FLAC")
    return patch(patch(data, 21, "B", data[21] & 0xF0), 22, ">I", 0)


def without_last_page(data: bytes) -> bytes:
    return data[: data.rindex(b"OggS")]


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_foreign_bytes_are_bad_clips(name: str) -> None:
    found = check_audio(BAD[name](), LIMITS)
    assert found is not None
    assert found.reason == "bad_audio"
    assert "0x" not in found.detail
    assert "\n" not in found.detail


@pytest.mark.parametrize("name", [name for name in GOOD if "pipe" not in name])
def test_no_cut_of_a_header_crashes(name: str) -> None:
    data = GOOD[name]()
    for length in range(min(len(data), 90)):
        assert reason(data[:length]) in ("bad_audio", "null_audio")


def test_zero_bytes_count_as_no_clip() -> None:
    assert reason(b"") == "null_audio"


def test_each_level_finds_more_than_the_one_before() -> None:
    damaged = (b"<html></html>", cut(encode()), float_wav(float("nan")))
    assert {level: [reason(data, level) for data in damaged] for level in LEVELS} == {
        "cheap": ["bad_audio", None, None],
        "header": ["bad_audio", "bad_audio", None],
        "full": ["bad_audio", "bad_audio", "bad_audio"],
    }


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (2.0, None),
        (2.001, "audio_too_large"),
        (0.01, None),
        (0.009, "audio_too_short"),
    ],
)
def test_durations_are_judged_by_the_header_before_decoding(
    seconds: float, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(tone(seconds))
    if expected:
        monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert reason(data) == expected


def test_a_small_file_of_hours_of_silence_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(np.zeros(8000 * 600, np.int16), container="FLAC")
    assert len(data) < 2**16
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    assert reason(data) == "audio_too_large"


def test_more_bytes_than_allowed_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip(0) + bytes(2**20)
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: pytest.fail("opened"))
    assert reason(data) == "audio_too_large"
