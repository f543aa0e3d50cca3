"""Clips of the page: a sound that can be played and its spectrogram, both as data URIs."""

import base64
import io
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.files import read_json
from plumbline.loading.media_reader import Clips
from plumbline.report.figures import number
from plumbline.tokenization.facts import CacheFacts

MAX_RATE = 16_000
"""Hz; a clip with more is played at half of its rate, a third, and so on."""
WINDOW_S, HOP_S = 0.025, 0.01
BANDS = 96
"""Rows of a spectrogram, from 0 Hz to half of the rate."""
MAX_COLUMNS = 400
RANGE_DB = 70.0
"""Below the loudest point of the clip everything is drawn black."""

_COLOURS = (
    (0, 0, 4),
    (66, 15, 117),
    (147, 38, 103),
    (221, 81, 58),
    (252, 165, 10),
    (252, 255, 164),
)
"""From silent to loud, evenly spaced: the colours of the map "inferno" of matplotlib."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """What the page shows of a sound."""

    sound: str
    """WAV, 16 bits, mono."""
    spectrogram: str
    """PNG."""
    words: str
    """What is seen and heard, in figures."""


class Sounds:
    """The clips of one dataset, memory-mapped; only those that are shown are read."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """Open nothing yet.

        Args:
            folder: of the cache.
            seconds: of a clip that are kept.
        """
        self._folder, self._seconds = folder, seconds
        self._facts: CacheFacts = read_json(folder / "cache.json")
        self._clips: Clips | None = None
        self.clip = cache(self._clip)

    def _clip(self, at: int) -> Clip | None:
        """The clip of this number; None where the dataset has none.

        Raises:
            CheckpointError: the cache has fewer samples than it says.
        """
        facts = self._facts.get("audio")
        if facts is None or not 0 <= at < facts["clips"]:
            return None
        if self._clips is None:
            self._clips = Clips(self._folder, self._facts)
        samples = self._clips[at]
        rate, whole = facts["sample_rate"], len(samples) / facts["sample_rate"]
        first = samples[: int(self._seconds * rate)].astype(np.float64)
        kept, rate = reduce_rate(np.nan_to_num(first, posinf=1.0, neginf=-1.0), rate)
        shown = len(kept) / rate
        cut = f", of which the first {number(round(shown, 2))} s" if shown < whole - 0.01 else ""
        words = f"{number(round(whole, 2))} s{cut}; 0 to {number(rate / 2)} Hz from below"
        return Clip(_wav(kept, rate), _picture(spectrogram(kept, rate)), words)


def reduce_rate(samples: Floats, rate: int) -> tuple[Floats, int]:
    """Keep every n-th of some samples [samples] behind a low pass, so that `MAX_RATE` is met.

    Returns:
        The samples [samples / n], and their rate in Hz.

    Source: Harris 1978, doi:10.1109/PROC.1978.10837, for the Hann window of the sinc.
    """
    factor = -(-rate // MAX_RATE)
    if factor == 1:
        return samples, rate
    # [16 n + 1] taps: a sinc that ends at half of the new rate, eight crossings on each side.
    taps = np.arange(-8 * factor, 8 * factor + 1)
    kernel = np.sinc(taps / factor) * np.hanning(len(taps) + 2)[1:-1]
    return np.convolve(samples, kernel / kernel.sum(), "same")[::factor], rate // factor


def spectrogram(samples: Floats, rate: int) -> Floats:
    """Loudness [bands, columns] from 0, `RANGE_DB` below the loudest point, to 1.

    Args:
        samples: [samples] of a clip.
        rate: Hz.
    """
    size = max(2, int(WINDOW_S * rate))
    hop = max(1, int(HOP_S * rate), -(-len(samples) // MAX_COLUMNS))
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # [columns, size]
    # Zeros behind a frame: as many points as there are rows, whatever the rate is.
    points = max(2 * BANDS, size)
    power = np.abs(np.fft.rfft(frames * np.hanning(size), points)[:, :-1]) ** 2
    edges = np.linspace(0, power.shape[1], BANDS + 1).astype(np.int64)[:-1]
    banded = np.maximum.reduceat(power, edges, axis=1).T[::-1]  # the lowest band comes last
    loudest = banded.max(initial=0.0)
    if not loudest > 0:
        return np.zeros_like(banded)
    decibels = 10 * np.log10(np.maximum(banded / loudest, 1e-30))
    return np.asarray(np.clip(1 + decibels / RANGE_DB, 0.0, 1.0))


def _picture(loudness: Floats) -> str:
    from PIL import Image

    # A palette of 256 colours, [256, 3]: a byte a pixel.
    steps = np.linspace(0, 255, len(_COLOURS))
    palette = np.stack(
        [np.interp(np.arange(256), steps, channel) for channel in np.array(_COLOURS).T], axis=1
    )
    image = Image.fromarray((loudness * 255).round().astype(np.uint8))
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _wav(samples: Floats, rate: int) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        # Louder than 1 would wrap around.
        loudest = max(1.0, float(np.abs(samples).max(initial=0.0)))
        file.writeframes((samples / loudest * 32767).round().astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()
