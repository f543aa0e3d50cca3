"""From cached samples to log-mel spectrograms or normalised waveforms, a batch at a time.

A clip's frames depend on its own samples alone: the ends are mirrored (or silent) per clip, never
the ends of the padded batch. All is computed in float64, because in float32 the quiet bands hold
rounding noise that differs between libraries. `plumbline.export.runtime.audio_features` computes
the same without torch, and a test compares them.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from plumbline.loading.audio_transform_config import AudioAugmentConfig, AudioTransformConfig
from plumbline.loading.masks import padding_mask
from plumbline.loading.mel import mel_filters

_FLOOR = 1e-10  # power below which the logarithm is cut, as in Whisper
_VARIANCE_FLOOR = 1e-7  # so that a silent clip stays finite, as in wav2vec 2.0


def stack_waveforms(clips: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Pad clips with zeros to the longest: [batch, samples] float32, and lengths [batch] int64."""
    lengths = [len(clip) for clip in clips]
    waveforms = np.zeros((len(clips), max(lengths)), dtype=np.float32)
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(waveforms), torch.tensor(lengths, dtype=torch.long)


def audio_steps(
    waveforms: Tensor, lengths: Tensor, config: AudioTransformConfig
) -> tuple[Tensor, Tensor]:
    """Make the steps of clips of any lengths, in the form of the settings, without their silence.

    Args:
        waveforms: [batch, samples] float32 at `config.sample_rate`; what stands behind a clip's
            length is not read.
        lengths: [batch] int64, in samples, at least 1 each.
        config: form, scale and the most steps; `min_steps` is for `fill_with_silence`.

    Returns:
        steps [batch, steps, channels] float32, 0 behind the end of a clip, and those that hear
        some of it: [batch, steps] bool.
    """
    used = torch.tensor([config.samples_used(length) for length in lengths.tolist()])
    if config.form == "waveform":
        return _waveform_steps(waveforms, used, config)
    if missing := max(0, int(used.max()) - waveforms.shape[1]):
        waveforms = functional.pad(waveforms, (0, missing))
    if bool((used > lengths).any()):
        # Silence is heard behind the clip, whatever lies there.
        waveforms = waveforms.masked_fill(~padding_mask(lengths, waveforms.shape[1]), 0.0)
    return log_mel(waveforms, used, config)


def _waveform_steps(
    waveforms: Tensor, lengths: Tensor, config: AudioTransformConfig
) -> tuple[Tensor, Tensor]:
    """Samples as steps of one channel.

    Source: Baevski et al. 2020, arXiv:2006.11477, section 2.
    """
    mask = padding_mask(lengths, int(lengths.max()))
    steps = torch.zeros(*mask.shape, 1)
    for row, clip, length in zip(steps, waveforms, lengths.tolist(), strict=True):
        values = clip[:length].double()
        if config.normalize == "clip":
            # Clip by clip: with the zeros of padding a sum is rounded otherwise.
            values = values - values.mean()
            values = values / (values.square().mean() + _VARIANCE_FLOOR).sqrt()
        row[:length, 0] = values
    return steps, mask


def fill_with_silence(
    steps: Tensor, mask: Tensor, config: AudioTransformConfig
) -> tuple[Tensor, Tensor]:
    """Put silence behind clips of fewer than `min_steps` steps.

    Args:
        steps: [batch, steps, channels] of `audio_steps`, padded with 0 where they are unequal.
        mask: [batch, steps] bool: those that hear the clip, as silence does not.
        config: the form, and how many steps there are at least.
    """
    if not config.min_steps:
        return steps, mask
    missing = max(0, config.min_steps - steps.shape[1])
    steps, mask = functional.pad(steps, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
    if config.form == "waveform":
        return steps, mask  # the zeros of padding are what silence is
    silent = ~mask & (torch.arange(mask.shape[1]) < config.min_steps)
    if config.scale == "log":
        level = steps.new_full((len(steps),), math.log(_FLOOR))
    else:
        # [batch]: log10 is cut 8 below each clip's maximum and at -10, both before (x + 4) / 4.
        loudest = steps.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=(1, 2))
        level = (loudest - 2).clamp(min=(math.log10(_FLOOR) + 4) / 4)
    return torch.where(silent.unsqueeze(-1), level[:, None, None], steps), mask


def frame_counts(lengths: Tensor, config: AudioTransformConfig) -> Tensor:
    """Frames whose centres lie within clips of `lengths` samples: [batch], at least 1 each."""
    return (lengths - 1) // config.hop + 1


def log_mel(
    waveforms: Tensor, lengths: Tensor, config: AudioTransformConfig
) -> tuple[Tensor, Tensor]:
    """Compute log-mel spectrograms of clips of any lengths.

    Args:
        waveforms: [batch, samples] float32 at `config.sample_rate`; what stands behind a clip's
            length is not read.
        lengths: [batch] int64, in samples.
        config: window, bands and scale; its augmentation is not applied here.

    Returns:
        features [batch, frames, n_mels] float32, 0 behind the end of a clip, and the frames that
        are real: [batch, frames] bool.

    Raises:
        ValueError: a length lies outside 1..samples.

    Source: Radford et al. 2022, arXiv:2212.04356, section 2.2; Slaney 1998, Auditory Toolbox.
    """
    if not 1 <= int(lengths.min()) <= int(lengths.max()) <= waveforms.shape[1]:
        raise ValueError(f"lengths {lengths.tolist()}: must lie in 1..{waveforms.shape[1]}")
    counts = frame_counts(lengths, config)
    frames = int(counts.max())
    mask = padding_mask(counts, frames)
    padded = _with_edges(waveforms, lengths, config)[:, : (frames - 1) * config.hop + config.fft]
    # From here on only the real frames of all clips, one after another.
    pieces = padded.unfold(1, config.fft, config.hop)[mask]  # [frames of all, fft]
    spectrum = torch.fft.rfft(pieces * _window(config.window, config.fft))
    power = spectrum.real.square() + spectrum.imag.square()  # [frames of all, fft // 2 + 1]
    mel = power @ _mel_filters(config.n_mels, config.fft, config.sample_rate)
    features = torch.zeros(len(lengths), frames, config.n_mels)
    features[mask] = _scale(mel.clamp(min=_FLOOR), counts, config).float()
    return features, mask


def _with_edges(waveforms: Tensor, lengths: Tensor, config: AudioTransformConfig) -> Tensor:
    """Put half a transform before and behind each clip: [batch, samples + fft] float64."""
    batch, samples = waveforms.shape
    half = config.fft // 2
    padded = torch.zeros(batch, samples + config.fft, dtype=torch.float64)
    padded[:, half : half + samples] = waveforms
    before = torch.arange(-half, 0).expand(batch, half)
    behind = lengths.unsqueeze(1) + torch.arange(config.fft - half)
    # [batch, fft]: places beside each clip, counted from its own first sample.
    places = torch.cat([before, behind], dim=1)
    if config.edges == "zero":
        return padded.scatter_(1, places + half, 0.0)
    # A clip shorter than half a transform is mirrored to and fro.
    last = lengths.unsqueeze(1) - 1
    # To and fro is a period of 2 * (samples - 1): the samples at the ends come once.
    turn = places % (2 * last).clamp(min=1)
    mirrored = waveforms.gather(1, torch.minimum(turn, 2 * last - turn).clamp(min=0))
    return padded.scatter_(1, places + half, mirrored.double())


def _scale(mel: Tensor, counts: Tensor, config: AudioTransformConfig) -> Tensor:
    """Take the logarithm of [frames of all clips, n_mels] and bring it to the settings' range."""
    clip = torch.arange(len(counts)).repeat_interleave(counts)  # [frames of all]: whose frame it is
    zeros = torch.zeros(len(counts), dtype=mel.dtype)
    if config.scale == "log":
        values = mel.log()
    else:
        values = mel.log10()
        # [clips]: of each clip's own frames, so that what it shares a batch with changes nothing.
        loudest = (zeros - torch.inf).scatter_reduce(0, clip, values.amax(dim=1), "amax")
        values = (torch.maximum(values, loudest[clip].unsqueeze(1) - 8) + 4) / 4
    if config.normalize == "clip":
        mean = zeros.index_add(0, clip, values.mean(dim=1)) / counts
        values = values - mean[clip].unsqueeze(1)
        variance = zeros.index_add(0, clip, values.square().mean(dim=1)) / counts
        values = values / (variance.sqrt() + 1e-5)[clip].unsqueeze(1)
    return values


@lru_cache(maxsize=8)
def _window(window: int, fft: int) -> Tensor:
    """A periodic Hann window in the middle of a transform: [fft] float64."""
    before = (fft - window) // 2
    hann = torch.hann_window(window, dtype=torch.float64)
    return functional.pad(hann, (before, fft - window - before))


@lru_cache(maxsize=8)
def _mel_filters(n_mels: int, fft: int, sample_rate: int) -> Tensor:
    return torch.from_numpy(mel_filters(n_mels, fft, sample_rate))


def augment_waveforms(
    waveforms: Tensor,
    lengths: Tensor,
    config: AudioAugmentConfig,
    sample_rate: int,
    generators: Sequence[Generator],
) -> Tensor:
    """Move each clip in time and change its loudness with draws from its own generator.

    Args:
        waveforms: [batch, samples] float32.
        lengths: [batch] int64; a clip keeps its length.
        config: what to do; all off returns the waveforms themselves.
        sample_rate: in Hz.
        generators: one per clip, keyed by (seed, epoch, sample).
    """
    reach = round(config.shift_ms * sample_rate / 1000)
    if not reach and not config.gain_db:
        return waveforms
    result = torch.zeros_like(waveforms)
    for row, clip, length, random in zip(
        result, waveforms, lengths.tolist(), generators, strict=True
    ):
        # A shift by the whole clip would leave nothing to learn from.
        shift = int(random.integers(-reach, reach + 1))
        shift = max(1 - length, min(length - 1, shift))
        gain = 10 ** (float(random.uniform(-config.gain_db, config.gain_db)) / 20)
        kept = clip[max(0, -shift) : length - max(0, shift)] * gain
        row[max(0, shift) : max(0, shift) + len(kept)] = kept
    return result


def mask_spectrograms(
    features: Tensor,
    frame_mask: Tensor,
    config: AudioAugmentConfig,
    generators: Sequence[Generator],
) -> Tensor:
    """Cover stretches of time and of mel bands with each clip's mean, as SpecAugment does.

    Args:
        features: [batch, frames, n_mels] from `log_mel`.
        frame_mask: [batch, frames] bool from `log_mel`.
        config: numbers and widths of the masks; without masks returns the features themselves.
        generators: one per clip, keyed by (seed, epoch, sample).

    Source: Park et al. 2019, arXiv:1904.08779, section 2, without time warping.
    """
    if not config.time_masks and not config.mel_masks:
        return features
    result = features.clone()
    counts = frame_mask.sum(dim=1).tolist()
    for clip, frames, random in zip(result, counts, generators, strict=True):
        clip = clip[:frames]
        mean = clip.mean()  # of the whole clip: taken before anything is covered
        widest = min(config.time_width, int(config.time_share * frames))
        for _ in range(config.time_masks):
            start, stop = _stretch(widest, frames, random)
            clip[start:stop] = mean
        for _ in range(config.mel_masks):
            start, stop = _stretch(config.mel_width, clip.shape[1], random)
            clip[:, start:stop] = mean
    return result


def _stretch(widest: int, size: int, random: Generator) -> tuple[int, int]:
    """Draw a width from 0 to `widest`, then where it starts, within `size` places."""
    width = int(random.integers(0, min(widest, size) + 1))
    start = int(random.integers(0, size - width + 1))
    return start, start + width
