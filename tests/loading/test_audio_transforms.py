"""Log-mel spectrograms agree with a reference, with the bundle's, and ignore padding."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from plumbline.data.audio import decode_mono
from plumbline.export.runtime import audio_features
from plumbline.loading.audio_transform_config import AudioAugmentConfig, AudioTransformConfig
from plumbline.loading.audio_transforms import (
    audio_steps,
    augment_waveforms,
    fill_with_silence,
    frame_counts,
    log_mel,
    mask_spectrograms,
    stack_waveforms,
)
from plumbline.loading.mel import mel_filters
from plumbline.loading.random import keyed_generator

Samples = NDArray[np.float32]
WHISPER = AudioTransformConfig()
VARIANTS = [
    WHISPER,
    AudioTransformConfig(edges="zero"),
    AudioTransformConfig(scale="log", fft=512),
    AudioTransformConfig(scale="log", edges="zero", normalize="clip", n_mels=40),
    AudioTransformConfig(sample_rate=8000, fft=256, n_mels=64, normalize="clip"),
    AudioTransformConfig(window_ms=20.1, hop_ms=7.3, fft=511),
]


def speech(samples: int, seed: int = 0, rate: int = 16_000) -> Samples:
    """Harmonics of a gliding pitch under a slow envelope, with a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    phase = 2 * np.pi * (110 * time + 20 * np.sin(2 * np.pi * time)) * (1 + seed / 10)
    voice = sum(np.sin(n * phase) / n for n in range(1, 20)) * (0.2 + np.sin(3 * time) ** 2)
    return (0.1 * voice + 1e-3 * random.standard_normal(samples)).astype(np.float32)


def clips(*lengths: int) -> list[Samples]:
    return [speech(length, seed) for seed, length in enumerate(lengths)]


def alone(clip: Samples, config: AudioTransformConfig) -> Tensor:
    features, mask = log_mel(*stack_waveforms([clip]), config)
    assert mask.all()
    return features[0]


def wav(samples: NDArray[np.floating], rate: int, format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("n_mels", "fft", "rate"), [(128, 400, 16000), (80, 512, 16000), (64, 256, 8000), (4, 64, 1600)]
)
def test_the_filter_bank_equals_that_of_transformers(n_mels: int, fft: int, rate: int) -> None:
    expected = mel_filter_bank(
        num_frequency_bins=fft // 2 + 1,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    for ours in (mel_filters, audio_features.mel_filters):
        np.testing.assert_allclose(ours(n_mels, fft, rate), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_a_clip_of_full_length_equals_the_features_of_whisper(n_mels: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=3)
    batch = [speech(48_000, seed) for seed in range(3)]
    expected = extractor(batch, sampling_rate=16_000, return_tensors="pt")["input_features"]
    features, mask = log_mel(*stack_waveforms(batch), AudioTransformConfig(n_mels=n_mels))
    assert features.shape == (3, 300, n_mels)
    assert mask.all()
    torch.testing.assert_close(features.transpose(1, 2), expected, rtol=0, atol=1e-4)


def test_a_tone_peaks_in_the_band_around_it() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    peak = int(alone(tone, WHISPER)[50].argmax())
    bank = mel_filters(128, 400, 16_000)
    assert bank[25, peak] == bank[25].max()  # bin 25 of 40 Hz each


@pytest.mark.parametrize("config", VARIANTS)
def test_a_clip_has_the_same_frames_in_any_company(config: AudioTransformConfig) -> None:
    batch = clips(4001, 16_000, 160, 1, 159, 161, 9600, 150)
    features, mask = log_mel(*stack_waveforms(batch), config)
    assert mask.sum(dim=1).tolist() == [-(-len(clip) // config.hop) for clip in batch]
    for row, real, clip in zip(features, mask, batch, strict=True):
        torch.testing.assert_close(row[real], alone(clip, config), rtol=0, atol=1e-6)
        assert not row[~real].any()


@pytest.mark.parametrize("config", VARIANTS)
def test_what_stands_behind_a_clip_is_not_read(config: AudioTransformConfig) -> None:
    waveforms, lengths = stack_waveforms(clips(4001, 160, 12_000))
    expected, _ = log_mel(waveforms, lengths, config)
    beyond = torch.arange(12_000) >= lengths.unsqueeze(1)
    dirty = waveforms.masked_fill(beyond, 7.0)
    assert torch.equal(log_mel(dirty, lengths, config)[0], expected)
    padded = torch.cat([waveforms, torch.ones(3, 5000)], dim=1)
    assert torch.equal(log_mel(padded, lengths, config)[0], expected)


@pytest.mark.parametrize("config", VARIANTS)
def test_the_features_of_a_bundle_are_those_of_training(config: AudioTransformConfig) -> None:
    settings = config.model_dump(exclude={"augment"})
    for clip in [*clips(16_000, 4001, 160, 1, 77), np.zeros(3200, np.float32)]:
        ours, theirs = alone(clip, config), audio_features.log_mel_numpy(clip, settings)
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


IN_SILENCE = AudioTransformConfig(n_mels=80, min_steps=100, max_steps=100)
"""A second, as a Whisper type of 50 positions takes it."""
WAVEFORM = AudioTransformConfig(form="waveform", normalize="clip", min_steps=400)
BOUNDED = [
    IN_SILENCE,
    AudioTransformConfig(n_mels=40, edges="zero", scale="log", min_steps=30, max_steps=50),
    AudioTransformConfig(window_ms=20.1, hop_ms=7.3, fft=511, min_steps=20),
    AudioTransformConfig(max_steps=20, normalize="clip"),
    WAVEFORM,
    AudioTransformConfig(form="waveform", max_steps=9000),
]
AROUND = (1, 5, 159, 160, 161, 4001, 15_801, 15_999, 16_000, 16_001, 20_000)
"""Lengths at and between the steps and bounds."""


def made(batch: list[Samples], config: AudioTransformConfig) -> tuple[Tensor, Tensor]:
    return fill_with_silence(*audio_steps(*stack_waveforms(batch), config), config)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_clips_of_any_length_equal_the_features_of_whisper(n_mels: int) -> None:
    """In silence up to its chunk, or cut to it."""
    batch = [*clips(*AROUND), np.zeros(700, np.float32)]
    extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=1)
    expected = extractor(batch, sampling_rate=16_000, return_tensors="pt")["input_features"]
    steps, mask = made(batch, IN_SILENCE.model_copy(update={"n_mels": n_mels}))
    torch.testing.assert_close(steps.transpose(1, 2), expected, rtol=0, atol=1e-4)
    # The frames whose window of 400 reaches into the clip; those of silence alone do not count.
    heard = [min(100, -(-(len(clip) + 200) // 160)) for clip in batch]
    assert mask.sum(dim=1).tolist() == heard


@pytest.mark.parametrize("normalize", [True, False])
def test_waveforms_equal_those_of_wav2vec2(normalize: bool) -> None:
    batch = [*clips(400, 4001, 16_000), np.zeros(700, np.float32)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    expected = extractor(batch, sampling_rate=16_000, return_tensors="pt", padding=True)
    config = WAVEFORM.model_copy(update={"normalize": "clip" if normalize else "none"})
    steps, mask = made(batch, config)
    torch.testing.assert_close(steps[..., 0], expected["input_values"], rtol=0, atol=2e-6)
    assert torch.equal(mask, expected["attention_mask"].bool())


@pytest.mark.parametrize("config", BOUNDED)
def test_a_clip_has_the_same_steps_in_any_company_and_in_its_bundle(
    config: AudioTransformConfig,
) -> None:
    batch = clips(*AROUND)
    together, heard = made(batch, config)
    settings = config.model_dump(exclude={"augment"}) | {"cut": config.max_steps}
    for steps, mask, clip in zip(together, heard, batch, strict=True):
        alone, known = made([clip], config)
        count = config.count_steps(len(clip))
        assert alone.shape == (1, count, config.channels)
        assert count >= max(1, config.min_steps)
        assert config.max_steps is None or count <= config.max_steps
        torch.testing.assert_close(steps[:count], alone[0], rtol=0, atol=1e-6)
        assert torch.equal(mask[:count], known[0])
        assert not steps[count:].any()
        assert not mask[count:].any()
        theirs, hearing = audio_features.audio_steps(clip, settings)  # type: ignore[arg-type]
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(alone[0].numpy(), theirs, rtol=0, atol=1e-5)
        assert hearing == known.sum()


@pytest.mark.parametrize("config", BOUNDED)
def test_nothing_behind_a_clip_is_heard(config: AudioTransformConfig) -> None:
    waveforms, lengths = stack_waveforms(clips(4001, 160, 12_000))
    expected, mask = audio_steps(waveforms, lengths, config)
    beyond = torch.arange(12_000) >= lengths.unsqueeze(1)
    steps, again = audio_steps(waveforms.masked_fill(beyond, torch.nan), lengths, config)
    assert torch.equal(steps, expected)
    assert torch.equal(mask, again)


def test_without_bounds_steps_are_the_spectrogram() -> None:
    waveforms, lengths = stack_waveforms(clips(4001, 160, 12_000))
    for given, known in zip(made(clips(4001, 160, 12_000), WHISPER), (0, 1), strict=True):
        assert torch.equal(given, log_mel(waveforms, lengths, WHISPER)[known])


def test_a_clip_without_samples_has_no_spectrogram() -> None:
    with pytest.raises(ValueError, match="without samples"):
        audio_features.log_mel_numpy(np.zeros(0, np.float32), WHISPER.model_dump())


def test_the_bundle_module_stands_alone(tmp_path: Path) -> None:
    path = Path(audio_features.__file__)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    code = (
        "import sys, audio_features;"
        "print([m for m in ('torch', 'plumbline', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_clip_of_8_khz_gives_128_rows_as_whisper_makes_them() -> None:
    clip = decode_mono(wav(speech(8000, rate=8000), 8000), WHISPER.sample_rate)
    features = alone(clip, WHISPER)
    assert features.shape == (100, 128)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=1)
    expected = extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(features.T, expected[0], rtol=0, atol=1e-4)
    # Nothing above 4 kHz was recorded: there the bands hold the floor, 8 powers of ten down.
    upper = mel_filters(128, 400, 16_000)[:105].sum(axis=0) == 0
    assert upper.sum() > 20
    # Frames at the ends see the clip break off, which holds all frequencies.
    assert features[5:-5, upper].max().item() == pytest.approx(features.max().item() - 2, abs=1e-6)


def test_normalised_clips_have_mean_0_and_deviation_1() -> None:
    config = AudioTransformConfig(normalize="clip")
    features, mask = log_mel(*stack_waveforms(clips(16_000, 3000)), config)
    for row, real in zip(features, mask, strict=True):
        assert row[real].mean().item() == pytest.approx(0, abs=1e-4)
        assert row[real].std().item() == pytest.approx(1, abs=1e-3)
    silent = alone(np.zeros(1600, np.float32), config)
    assert not silent.any()


def test_clips_are_padded_with_silence_also_from_read_only_memory() -> None:
    batch = [np.ones(3, np.float32), np.ones(1, np.float32)]
    batch[0].setflags(write=False)
    waveforms, lengths = stack_waveforms(batch)
    assert waveforms.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert lengths.tolist() == [3, 1]


def test_frames_are_counted_by_their_centres() -> None:
    lengths = torch.tensor([1, 159, 160, 161, 320, 16_000])
    assert frame_counts(lengths, WHISPER).tolist() == [1, 1, 1, 2, 2, 100]


@pytest.mark.parametrize("lengths", [[0, 5], [5, 11]])
def test_lengths_outside_the_batch_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must lie in 1\.\.10"):
        log_mel(torch.zeros(2, 10), torch.tensor(lengths), WHISPER)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"fft": 399}, "window_ms 25.0 is 400 samples: must be 2 to fft 399"),
        ({"hop_ms": 30.0}, "or samples are skipped"),
        ({"hop_ms": 0.01}, "hop_ms 0.01 is 0 samples"),
        ({"sample_rate": 8000, "fft": 200}, "6 of n_mels 128 bands hold no frequency"),
        ({"augment": {"time_masks": 1}}, "time_masks without time_width mask nothing"),
        ({"augment": {"mel_masks": 1}}, "mel_masks without mel_width"),
        ({"scale": "db"}, "whisper"),
        ({"min_steps": 9, "max_steps": 8}, "min_steps 9 is more than max_steps 8"),
        ({"min_steps": 9, "normalize": "clip"}, "min_steps 9 and normalize clip contradict"),
        ({"form": "checkpoint", "n_mels": 80}, "form checkpoint takes n_mels from the checkpoint"),
        (
            {"form": "waveform", "augment": {"time_masks": 1, "time_width": 2}},
            "cover spectrograms, not a waveform",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        AudioTransformConfig.model_validate(settings)


ALL_ON = AudioAugmentConfig(
    shift_ms=50, gain_db=6, time_masks=2, time_width=20, time_share=0.5, mel_masks=2, mel_width=27
)


def draws(count: int, epoch: int = 0, first: int = 0) -> list[np.random.Generator]:
    return [keyed_generator(0, "augment", epoch, first + i) for i in range(count)]


def augmented(batch: list[Samples], epoch: int = 0, first: int = 0) -> tuple[Tensor, Tensor]:
    generators = draws(len(batch), epoch, first)
    waveforms, lengths = stack_waveforms(batch)
    waveforms = augment_waveforms(waveforms, lengths, ALL_ON, 16_000, generators)
    features, mask = log_mel(waveforms, lengths, WHISPER)
    return mask_spectrograms(features, mask, ALL_ON, generators), mask


def test_augmentation_draws_differ_between_epochs_and_not_between_runs() -> None:
    batch = clips(8000, 4000)
    first, mask = augmented(batch)
    assert torch.equal(first, augmented(batch)[0])
    assert not torch.equal(first, augmented(batch, epoch=1)[0])
    assert not first[~mask].any()


def test_a_clip_is_augmented_alike_in_any_company() -> None:
    batch = clips(8000, 4000)
    whole, mask = augmented(batch)
    single, _ = augmented(batch[1:], first=1)
    torch.testing.assert_close(whole[1][mask[1]], single[0], rtol=0, atol=1e-6)


def test_all_off_changes_nothing() -> None:
    waveforms, lengths = stack_waveforms(clips(800, 400))
    off = AudioAugmentConfig()
    assert augment_waveforms(waveforms, lengths, off, 16_000, draws(2)) is waveforms
    features, mask = log_mel(waveforms, lengths, WHISPER)
    assert mask_spectrograms(features, mask, off, draws(2)) is features


def test_a_shift_moves_a_clip_and_leaves_silence() -> None:
    ramp = np.arange(1, 101, dtype=np.float32)
    waveforms, lengths = stack_waveforms([ramp] * 400 + [np.ones(300, np.float32)])
    config = AudioAugmentConfig(shift_ms=5)  # 5 samples at 1000 Hz
    moved = augment_waveforms(waveforms, lengths, config, 1000, draws(401))[:400]
    seen = set()
    for row in moved:
        # Either the front is silent or the first samples are gone.
        shift = int((row[:100] == 0).nonzero().numel())
        by = shift if row[0] == 0 else 1 - int(row[0])
        assert abs(by) == shift
        expected = np.zeros(100, np.float32)
        expected[max(0, by) : 100 + min(0, by)] = ramp[max(0, -by) : 100 - max(0, by)]
        assert torch.equal(row[:100], torch.from_numpy(expected))
        seen.add(by)
    assert seen == set(range(-5, 6))
    assert not moved[:, 100:].any()


def test_a_shift_never_loses_a_whole_clip() -> None:
    waveforms, lengths = stack_waveforms([np.ones(3, np.float32)] * 50)
    config = AudioAugmentConfig(shift_ms=1000)
    moved = augment_waveforms(waveforms, lengths, config, 16_000, draws(50))
    assert (moved != 0).any(dim=1).all()


def test_gains_are_uniform_in_decibels() -> None:
    waveforms, lengths = stack_waveforms([np.ones(4, np.float32)] * 2000)
    config = AudioAugmentConfig(gain_db=6)
    louder = augment_waveforms(waveforms, lengths, config, 16_000, draws(2000))
    gains = 20 * louder[:, 0].log10()
    assert -6 <= gains.min() < -5.9
    assert 5.9 < gains.max() <= 6
    assert gains.mean().abs() < 3 * 6 / np.sqrt(3 * 2000)  # 3 sigma


def test_masks_cover_whole_stretches_with_the_mean() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(300, 40, 30, generator=random)
    counts = torch.tensor([40, 20, 3] * 100)
    mask = torch.arange(40) < counts.unsqueeze(1)
    features[~mask] = 0
    config = AudioAugmentConfig(
        time_masks=1, time_width=10, time_share=0.4, mel_masks=1, mel_width=6
    )
    before = features.clone()
    covered = mask_spectrograms(features, mask, config, draws(300))
    assert torch.equal(features, before)
    widths_of_time, widths_of_mel = set(), set()
    for old, new, frames in zip(features, covered, counts.tolist(), strict=True):
        assert torch.equal(new[frames:], old[frames:])
        hidden = new[:frames] == old[:frames].mean()
        rows, bands = hidden.all(dim=1), hidden.all(dim=0)
        assert torch.equal(hidden, rows.unsqueeze(1) | bands)
        assert torch.equal(new[:frames][~hidden], old[:frames][~hidden])
        for line in (rows, bands):
            places = line.nonzero().flatten()
            assert not len(places) or int(places[-1] - places[0]) == len(places) - 1
        assert rows.sum() <= 0.4 * frames
        if frames == 40:
            widths_of_time.add(int(rows.sum()))
            widths_of_mel.add(int(bands.sum()))
    assert widths_of_time == set(range(11))
    assert widths_of_mel == set(range(7))
