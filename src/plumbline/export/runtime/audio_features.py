"""From samples to their log-mel spectrogram or normalised waveform, with numpy alone.

Exactly as in training and evaluation, without torch; the settings are those of the contract.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .inputs import AudioSection

Floats = NDArray[np.float32]
Float64s = NDArray[np.float64]

_FLOOR = 1e-10  # power below which the logarithm is cut
_VARIANCE_FLOOR = 1e-7  # so that a silent clip stays finite


def audio_steps(samples: Floats, settings: "AudioSection") -> tuple[Floats, int]:
    """Make the steps of one clip: cut, and with silence behind it, as the settings say.

    Args:
        samples: [samples] float32 at the sample rate of the settings.
        settings: `cut` and `min_steps` count frames, or samples of a waveform.

    Returns:
        [steps, channels] float32, and how many of the steps hear the clip.

    Raises:
        ValueError: there is no sample.
    """
    waveform, fewest = settings["form"] == "waveform", settings["min_steps"]
    hop = 1 if waveform else round(settings["sample_rate"] * settings["hop_ms"] / 1000)
    if settings["cut"] is not None:
        samples = samples[: settings["cut"] * hop]
    if waveform:
        steps, silence = _normalized(samples, settings["normalize"]), 0.0
    else:
        # As far as frames hear the clip beside the silence; what comes after is silence alone.
        hearing = -(-(len(samples) + settings["fft"] // 2) // hop)
        behind = min(hearing, fewest) * hop - len(samples)
        steps = log_mel_numpy(np.pad(samples, (0, max(0, behind))), settings)
        silence = _silence(steps, settings["scale"])
    missing = max(0, fewest - len(steps))
    filled = np.pad(steps, ((0, missing), (0, 0)), constant_values=silence)
    return filled, len(steps)


def _normalized(samples: Floats, how: str) -> Floats:
    """The samples as steps of one channel: [samples, 1]."""
    values = samples.astype(np.float64)
    if how == "clip":
        values = values - values.mean()
        values = values / np.sqrt(np.square(values).mean() + _VARIANCE_FLOOR)
    return values.astype(np.float32)[:, None]


def _silence(steps: Floats, scale: str) -> float:
    """What silence behind a clip is, of which these are the frames that hear it."""
    if scale == "log":
        return float(np.log(_FLOOR))
    return max(float(steps.max()) - 2, (float(np.log10(_FLOOR)) + 4) / 4)


def log_mel_numpy(samples: Floats, settings: "AudioSection") -> Floats:
    """Compute the log-mel spectrogram of one clip.

    Args:
        samples: [samples] float32 at the sample rate of the settings.
        settings: of the spectrogram; what bounds its length is not read.

    Returns:
        [frames, n_mels] float32; one frame per hop whose centre lies within the clip.

    Raises:
        ValueError: there is no sample.
    """
    if not len(samples):
        raise ValueError("a clip without samples has no spectrogram")
    rate, fft = settings["sample_rate"], settings["fft"]
    window = round(rate * settings["window_ms"] / 1000)
    hop = round(rate * settings["hop_ms"] / 1000)
    frames = (len(samples) - 1) // hop + 1
    padded = _with_edges(samples, frames, hop, fft, settings["edges"])
    # [frames, fft]: views of the clip, without a copy
    pieces = np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop]
    spectrum = np.fft.rfft(pieces * _window(window, fft), axis=1)
    power = spectrum.real**2 + spectrum.imag**2  # [frames, fft // 2 + 1]
    mel = np.maximum(power @ mel_filters(settings["n_mels"], fft, rate), _FLOOR)
    if settings["scale"] == "log":
        values = np.log(mel)
    else:
        # As Whisper scales: 80 dB below the loudest is cut, then about -1 to 1.
        values = np.log10(mel)
        values = (np.maximum(values, values.max() - 8) + 4) / 4
    if settings["normalize"] == "clip":
        values = (values - values.mean()) / (values.std() + 1e-5)
    return values.astype(np.float32)


def _with_edges(samples: Floats, frames: int, hop: int, fft: int, edges: str) -> Float64s:
    """Put half a transform before and behind the clip, so that frames stand around their centre."""
    places = np.arange(-(fft // 2), (frames - 1) * hop + fft - fft // 2)
    last = len(samples) - 1
    if edges == "zero":
        inside = (places >= 0) & (places <= last)
        cut: Float64s = samples[places.clip(0, last)].astype(np.float64) * inside
        return cut
    # A clip shorter than half a transform is mirrored to and fro.
    turn = places % max(2 * last, 1)
    mirrored: Float64s = samples[np.minimum(turn, 2 * last - turn).clip(0)].astype(np.float64)
    return mirrored


@lru_cache(maxsize=8)
def _window(window: int, fft: int) -> Float64s:
    """A periodic Hann window in the middle of a transform: [fft]."""
    values = np.zeros(fft)
    start = (fft - window) // 2
    values[start : start + window] = np.sin(np.pi * np.arange(window) / window) ** 2
    return values


@lru_cache(maxsize=8)
def mel_filters(n_mels: int, fft: int, sample_rate: int) -> Float64s:
    """Triangles of equal area on Slaney's mel scale: [fft // 2 + 1, n_mels]."""
    step = np.log(6.4) / 27  # per mel, above the 15 mels of 1000 Hz
    top = sample_rate / 2
    top_mel = top * 3 / 200 if top < 1000 else 15 + np.log(top / 1000) / step
    mels = np.linspace(0, top_mel, n_mels + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.arange(fft // 2 + 1) * (sample_rate / fft)
    rising = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
    height = 2 / (corners[2:] - corners[:-2])
    filters: Float64s = np.maximum(0, np.minimum(rising, falling)) * height
    return filters
