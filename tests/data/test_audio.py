"""From encoded bytes to mono samples at one rate (FD37)."""

import io

import numpy as np
import pytest
import soundfile

from plumbline.data.audio import decode_mono
from plumbline.data.undecodable import UndecodableError


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
