"""Encoded clips, whole and damaged, for the tests."""

import io
import struct
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray


def tone(
    seconds: float = 0.25, rate: int = 8000, channels: int = 1, pitch: float = 440.0
) -> NDArray[np.float32]:
    """A sine of half the full scale: [samples, channels]."""
    times = np.arange(round(seconds * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
    return np.repeat(wave[:, None], channels, axis=1)


def encode(
    samples: NDArray[Any] | None = None,
    rate: int = 8000,
    container: str = "WAV",
    subtype: str | None = None,
) -> bytes:
    """The bytes of a file that libsndfile writes; a tone by default."""
    buffer = io.BytesIO()
    samples = tone(rate=rate) if samples is None else samples
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def clip(number: int) -> bytes:
    """A WAV of its own for every number."""
    return encode(tone(0.05, pitch=100.0 + number))


def patch(data: bytes, place: int, layout: str, value: int) -> bytes:
    """Overwrite one number of a header."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, place, value)
    return bytes(changed)
