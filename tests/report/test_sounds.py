import base64
import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plumbline.errors import CheckpointError
from plumbline.report.sounds import BANDS, MAX_RATE, Sounds, reduce_rate, spectrogram


def write_cache(folder: Path, clips: list[np.ndarray], rate: int = 8000) -> Path:
    audio = {"clips": len(clips), "sample_rate": rate, "longest_samples": max(map(len, clips))}
    (folder / "cache.json").write_text(json.dumps({"audio": audio}), encoding="utf-8")
    np.concatenate(clips).astype(np.float32).tofile(folder / "audio.bin")
    ends = np.cumsum([0, *map(len, clips)])
    ends.astype(np.int64).tofile(folder / "audio.offsets.bin")
    return folder


def sine(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def played(uri: str) -> tuple[np.ndarray, int]:
    head, data = uri.split(",")
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(10**9), "<i2"), file.getframerate()


def test_what_is_played_are_the_samples_of_the_cache(tmp_path: Path) -> None:
    clips = [sine(200, 8000), 0.5 * sine(1000, 8000, 0.3)]
    clip = Sounds(write_cache(tmp_path, clips), seconds=3).clip(1)
    assert clip is not None
    samples, rate = played(clip.sound)
    assert rate == 8000
    np.testing.assert_allclose(samples / 32767, clips[1], atol=1 / 32767)
    assert clip.words == "0.3 s; 0 to 4,000 Hz from below"


def test_of_a_long_clip_the_beginning_is_played(tmp_path: Path) -> None:
    clip = Sounds(write_cache(tmp_path, [sine(200, 8000, 2.0)]), seconds=0.5).clip(0)
    assert clip is not None
    assert len(played(clip.sound)[0]) == 4000
    assert clip.words.startswith("2 s, of which the first 0.5 s")


def test_samples_beyond_the_range_are_scaled_and_do_not_wrap(tmp_path: Path) -> None:
    loud = np.array([4.0, -2.0, np.nan, np.inf], np.float32)
    clip = Sounds(write_cache(tmp_path, [loud]), seconds=1).clip(0)
    assert clip is not None
    samples = played(clip.sound)[0] / 32767
    np.testing.assert_allclose(samples, [1.0, -0.5, 0.0, 0.25], atol=1e-4)


@pytest.mark.parametrize(("hertz", "rate"), [(1000, 8000), (3500, 8000), (2000, 16000)])
def test_a_tone_is_brightest_in_the_row_of_its_frequency(hertz: int, rate: int) -> None:
    loudness = spectrogram(sine(hertz, rate), rate)
    assert loudness.shape[0] == BANDS
    row = BANDS - 1 - int(loudness[:, loudness.shape[1] // 2].argmax())  # from below
    assert abs(row - hertz / (rate / 2) * BANDS) <= 2
    assert loudness.max() == 1.0


def test_silence_and_a_clip_shorter_than_a_window_have_a_picture() -> None:
    assert not spectrogram(np.zeros(8000), 8000).any()
    assert spectrogram(np.ones(3), 8000).shape == (BANDS, 1)


def test_a_long_clip_has_no_more_columns_than_are_drawn() -> None:
    assert spectrogram(sine(100, 8000, 30), 8000).shape[1] <= 400


def test_a_higher_rate_is_reduced_without_folding_tones_down() -> None:
    kept, rate = reduce_rate(sine(1000, 48000), 48000)
    assert rate == MAX_RATE
    middle = slice(1000, -1000)
    np.testing.assert_allclose(kept[middle], sine(1000, 16000)[: len(kept)][middle], atol=5e-3)
    folded, _ = reduce_rate(sine(15000, 48000), 48000)  # would be heard as 1,000 Hz
    assert np.abs(folded[middle]).max() < 0.02


def test_a_spectrogram_is_a_picture_of_its_own_colours(tmp_path: Path) -> None:
    clip = Sounds(write_cache(tmp_path, [sine(1000, 8000)]), seconds=1).clip(0)
    assert clip is not None
    image = Image.open(io.BytesIO(base64.b64decode(clip.spectrogram.split(",")[1])))
    assert image.height == BANDS
    pixels = np.asarray(image.convert("RGB"))
    assert pixels.reshape(-1, 3).max(axis=0).tolist() == [252, 255, 164]


def test_a_number_beyond_the_clips_and_a_dataset_without_sound_have_none(tmp_path: Path) -> None:
    assert Sounds(write_cache(tmp_path, [sine(100, 8000)]), seconds=1).clip(1) is None
    (tmp_path / "cache.json").write_text("{}", encoding="utf-8")
    assert Sounds(tmp_path, seconds=1).clip(0) is None


def test_a_cut_cache_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path, [sine(100, 8000)])
    (tmp_path / "audio.bin").write_bytes(b"0000")
    with pytest.raises(CheckpointError, match=r"audio\.bin: missing or cut short"):
        Sounds(tmp_path, seconds=1).clip(0)
