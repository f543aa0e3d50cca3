"""From encoded bytes to mono samples at one rate (FD37)."""

import contextlib
import io
import os

import numpy as np
import pytest
import soundfile

from plumbline.data.audio import decode_mono
from plumbline.data.library_lines import library_lines
from plumbline.data.undecodable import MAX_BYTES, TooCostlyError, UndecodableError


def encode(samples: np.ndarray, rate: int, subtype: str, file_format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format=file_format)
    return buffer.getvalue()


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 1 / 128),
        ("PCM_16", 2 / 32768),
        ("PCM_24", 1e-6),
        ("FLOAT", 1e-7),
        ("DOUBLE", 1e-7),
    ],
)
def test_every_sample_format_gives_the_same_scale(subtype: str, tolerance: float) -> None:
    samples = tone(8000)
    decoded = decode_mono(encode(samples, 8000, subtype), 8000)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, samples, atol=tolerance)


def test_channels_are_averaged() -> None:
    left = tone(8000)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    decoded = decode_mono(encode(stereo, 8000, "FLOAT"), 8000)
    np.testing.assert_allclose(decoded, left / 2, atol=1e-6)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 8000), (8000, 16_000), (22_050, 16_000)])
def test_resampling_keeps_pitch_length_and_loudness(rate: int, wanted: int) -> None:
    decoded = decode_mono(encode(tone(rate), rate, "PCM_16"), wanted)
    assert abs(len(decoded) - wanted // 2) <= 1
    spectrum = np.abs(np.fft.rfft(decoded))
    assert np.fft.rfftfreq(len(decoded), 1 / wanted)[spectrum.argmax()] == pytest.approx(440, abs=3)
    middle = decoded[len(decoded) // 4 : -len(decoded) // 4]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.01)


def test_other_containers_are_told_by_content() -> None:
    samples = tone(8000)
    for name, subtype in (("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("WAVEX", "PCM_16")):
        decoded = decode_mono(encode(samples, 8000, subtype, name), 8000)
        np.testing.assert_allclose(decoded, samples, atol=2 / 32768)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"not audio at all", bytes(100)])
def test_what_is_no_audio_is_an_error(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode_mono(data, 8000)


def test_a_clip_without_samples_is_an_error() -> None:
    with pytest.raises(UndecodableError, match="no sample"):
        decode_mono(encode(np.zeros(0), 8000, "PCM_16"), 8000)


def test_averaging_by_blocks_is_that_of_the_whole() -> None:
    for channels in (1, 2, 3, 7, 8, 9, 33):
        frames = 2**18 // channels * 2 + 5
        samples = np.random.default_rng(channels).normal(0, 0.1, (frames, channels))
        whole = samples.astype(np.float32).mean(axis=1, dtype=np.float32)
        assert np.array_equal(decode_mono(encode(samples, 8000, "FLOAT"), 8000), whole)


def many_channels(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 192_000, 255, "VORBIS", format="OGG") as file:
        for _ in range(seconds):
            file.write(np.zeros((192_000, 255), np.float32))
    return buffer.getvalue()


def long_flac(rate: int, frames: int) -> bytes:
    """A FLAC file that announces so many frames."""
    data = bytearray(encode(tone(8000), 8000, "PCM_16", "FLAC"))
    bits = int.from_bytes(data[18:26], "big")
    bits = bits & ~(0xFFFFF << 44 | 2**36 - 1) | rate << 44 | frames
    data[18:26] = bits.to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (many_channels(2), "255 channels of 192000 Hz: decoding takes some"),
        (long_flac(8000, 8000 * 601), "601.000 s, allowed are 600 s"),
        (long_flac(96_000, 96_000 * 301), "301.000 s, allowed are 300 s"),
        (encode(tone(8000, seconds=1), 8000, "PCM_16") + bytes(MAX_BYTES), "bytes, allowed are"),
    ],
)
def test_what_costs_too_much_is_refused_undecoded(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(TooCostlyError, match=message):
        decode_mono(data, 8000)


def test_a_clip_shorter_than_a_sample_of_the_new_rate_keeps_one() -> None:
    assert len(decode_mono(encode(tone(48_000)[:1], 48_000, "FLOAT"), 1000)) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_no_resampling_survives_is_refused(value: float) -> None:
    samples = tone(8000)
    samples[5] = value
    with pytest.raises(UndecodableError, match="among the samples"):
        decode_mono(encode(samples, 8000, "FLOAT"), 16_000)


def test_lines_of_the_mp3_decoder_are_counted_and_not_shown(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = bytearray(encode(tone(8000, seconds=1), 8000, "MPEG_LAYER_III", "MP3"))
    data[700:760] = bytes(60)
    before = library_lines()
    with contextlib.suppress(UndecodableError):
        decode_mono(bytes(data), 8000)
    assert library_lines() > before
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
