"""Inputs of every modality: what the cache holds reaches the model, padded and masked."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import Batch
from plumbline.config import check_config
from plumbline.errors import ConfigError, DataError
from plumbline.kinds.classification.settings import ClassificationTaskConfig
from plumbline.loading.audio_transforms import audio_steps, fill_with_silence, log_mel
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.input_config import (
    INPUTS,
    AudioInputConfig,
    FeaturesInputConfig,
    TextInputConfig,
)
from plumbline.loading.inputs import AudioInput, FeaturesInput, Input, TextInput, build_input
from plumbline.loading.memory_cache import MemoryCache
from plumbline.loading.random import keyed_generator
from plumbline.tokenization.tokenizer import SpecialIds
from plumbline.training.task import TrainingJob
from tests.tiny import CASES, COVERED, MOVED, SPECTROGRAM

Caches = Callable[[str], TrainingCache]
LENGTHS = (5, 198, 17)


class Ragged:
    """A cache of arrays and texts of known lengths."""

    folder = "ragged"

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        draw = np.random.default_rng(0)
        self._arrays = [draw.standard_normal((n, 3)).astype(np.float32) for n in lengths]
        self.facts: dict[str, Any] = {
            "features": {
                "channels": 3,
                "mean_of_channels": [0.5, -1.0, 0.0],
                "std_of_channels": [2.0, 0.5, 0.0],
            },
            "special_ids": {"pad": 0, "bos": 1, "eos": 2},
        }

    def features(self, number: int) -> NDArray[np.float32]:
        return self._arrays[number]

    def ids(self, number: int) -> NDArray[np.int32]:
        return np.arange(4, 4 + len(self._arrays[number]), dtype=np.int32)

    def text_lengths(self) -> NDArray[np.int64]:
        return np.array([len(array) for array in self._arrays])

    def lengths(self, name: str) -> NDArray[np.int64]:
        return self.text_lengths()


def batch_of(made: Input, count: int, training: int | None = None) -> Batch:
    """The first values; `training` is the epoch of the draws, None: evaluation."""
    draws = None
    if training is not None:
        draws = [keyed_generator(0, "augment", training, index) for index in range(count)]
    return made.collate([made.fetch(number) for number in range(count)], range(count), draws)


def features_input(**settings: Any) -> FeaturesInput:
    config = FeaturesInputConfig(modality="features", **settings)
    return FeaturesInput(config, Ragged())  # type: ignore[arg-type]


def text_input(**settings: Any) -> TextInput:
    config = TextInputConfig(modality="text", **({"max_tokens": 300} | settings))
    return TextInput(config, Ragged())  # type: ignore[arg-type]


def lengths_of(mask: Tensor) -> list[int]:
    counts: list[int] = mask.sum(dim=1).tolist()
    for row, count in zip(mask.bool(), counts, strict=True):
        assert row[:count].all()
        assert not row[count:].any()
    return counts


def test_features_of_unequal_length_are_padded_to_the_longest() -> None:
    made = features_input(standardize=False)
    batch = batch_of(made, 3)
    assert batch["steps"].shape == (3, 198, 3)
    assert batch["steps"].dtype == torch.float32
    assert lengths_of(batch["mask"]) == list(LENGTHS) == [made.length(i) for i in range(3)]
    for number, (row, count) in enumerate(zip(batch["steps"], LENGTHS, strict=True)):
        assert np.array_equal(row[:count].numpy(), Ragged().features(number))
        assert not row[count:].any()


def test_texts_of_unequal_length_are_framed_and_padded_to_the_longest() -> None:
    made = text_input()
    batch = batch_of(made, 3)
    assert batch["input_ids"].shape == (3, 200)
    assert lengths_of(batch["attention_mask"]) == [n + 2 for n in LENGTHS]
    assert [made.length(i) for i in range(3)] == [n + 2 for n in LENGTHS]
    for row, count in zip(batch["input_ids"].tolist(), LENGTHS, strict=True):
        assert row[: count + 2] == [1, *range(4, 4 + count), 2]
        assert set(row[count + 2 :]) <= {0}


def test_long_inputs_are_cut_at_their_end() -> None:
    features, texts = features_input(max_steps=10, standardize=False), text_input(max_tokens=10)
    assert lengths_of(batch_of(features, 3)["mask"]) == [5, 10, 10]
    assert [features.length(i) for i in range(3)] == [5, 10, 10]
    assert batch_of(texts, 3)["input_ids"][1].tolist() == [1, *range(4, 14), 2]
    assert [texts.length(i) for i in range(3)] == [7, 12, 12]


def test_features_are_brought_to_the_statistics_of_training() -> None:
    steps = batch_of(features_input(), 1)["steps"][0].double().numpy()
    raw = Ragged().features(0).astype(np.float64)
    expected = (raw - [0.5, -1.0, 0.0]) / [2.0, 0.5, 1e-6]  # a constant channel stays finite
    np.testing.assert_allclose(steps, expected, rtol=1e-5)


def test_words_are_dropped_in_training_alone_and_anew_each_epoch() -> None:
    made = text_input(word_dropout=0.25)
    first, second, again = (batch_of(made, 3, epoch) for epoch in (0, 1, 0))
    assert torch.equal(first["input_ids"], again["input_ids"])
    kept = lengths_of(first["attention_mask"])[1] - 2
    assert abs(kept - 0.75 * 198) <= 3 * (198 * 0.25 * 0.75) ** 0.5
    assert first["input_ids"][1, :kept].tolist() != second["input_ids"][1, :kept].tolist()
    assert lengths_of(batch_of(made, 3)["attention_mask"]) == [n + 2 for n in LENGTHS]
    ids = [i for i in first["input_ids"][1].tolist() if i > 2]
    assert ids == sorted(set(ids))  # their order stays


def test_an_empty_text_still_has_its_frame() -> None:
    """No batch holds a sequence without a token."""
    made = TextInput(TextInputConfig(modality="text"), Ragged((0, 3)))  # type: ignore[arg-type]
    assert batch_of(made, 1)["input_ids"].tolist() == [[1, 2]]


def test_the_number_of_frames_is_what_a_clip_is_said_to_take(caches: Caches) -> None:
    made = build_input(AudioInputConfig.model_validate(SPECTROGRAM), caches("clips"))
    batch = batch_of(made, 12)
    assert lengths_of(batch["mask"]) == [made.length(number) for number in range(12)]
    assert not batch["steps"][~batch["mask"]].any()


@pytest.mark.parametrize("augment", [{}, MOVED], ids=["spectrograms", "samples"])
def test_a_spectrogram_is_that_of_the_clip_alone(caches: Caches, augment: dict[str, Any]) -> None:
    cache = caches("clips")
    config = AudioInputConfig.model_validate(SPECTROGRAM | augment)
    batch = batch_of(build_input(config, cache), 5)
    for number in range(5):
        samples = torch.from_numpy(np.array(cache.audio(number)))
        expected, _ = log_mel(samples[None], torch.tensor([len(samples)]), config)
        found = batch["steps"][number][batch["mask"][number]]
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-6)


WAVEFORM = {"modality": "audio", "form": "waveform", "sample_rate": SPECTROGRAM["sample_rate"]}
BOUNDED = {
    "in silence": SPECTROGRAM | {"min_steps": 24},
    "cut": SPECTROGRAM | {"min_steps": 12, "max_steps": 12},
    "waveforms": WAVEFORM | {"normalize": "clip", "min_steps": 400, "max_steps": 600},
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("augment", [{}, MOVED], ids=["steps", "samples"])
def test_clips_have_as_many_steps_as_the_settings_allow(
    caches: Caches, name: str, augment: dict[str, Any]
) -> None:
    config = AudioInputConfig.model_validate(BOUNDED[name] | augment)
    cache = caches("clips")
    inputs = build_input(config, cache, cache_bytes=2**20)
    batch = batch_of(inputs, 12)
    lengths = [inputs.length(number) for number in range(12)]
    assert batch["steps"].shape == (12, max(lengths), config.channels)
    assert (len(set(lengths)) == 1) == (name == "cut")
    assert min(lengths) >= config.min_steps
    assert config.max_steps is None or max(lengths) <= config.max_steps
    for number in range(12):
        samples = torch.from_numpy(np.array(cache.audio(number)))
        steps, mask = audio_steps(samples[None], torch.tensor([len(samples)]), config)
        expected, heard = fill_with_silence(steps, mask, config)
        count = lengths[number]
        torch.testing.assert_close(batch["steps"][number, :count], expected[0], rtol=0, atol=1e-6)
        assert torch.equal(batch["mask"][number, :count], heard[0])
        assert not batch["mask"][number, count:].any()


def test_clips_that_are_cut_are_counted(caches: Caches, caplog: pytest.LogCaptureFixture) -> None:
    cache = caches("clips")
    config = AudioInputConfig.model_validate(BOUNDED["waveforms"])
    numbers = np.arange(12)
    longer = int((cache.lengths("audio")[numbers] > 600).sum())
    assert 0 < longer < 12
    with caplog.at_level(logging.WARNING):
        build_input(config, cache).say_cut("train", numbers)
    told = f"{longer} of 12 clips of split train are longer than inputs.max_steps = 600"
    assert told in caplog.text


def audio_input(cache: TrainingCache, memory: MemoryCache) -> AudioInput:
    config = AudioInputConfig.model_validate(SPECTROGRAM | COVERED)
    return AudioInput(config, cache, memory=memory)


def test_the_second_epoch_reads_nothing_and_is_augmented_anew(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept stands before the augmentation."""
    memory = MemoryCache(2**24)
    made = audio_input(caches("clips"), memory)
    first = batch_of(made, 8, training=0)
    assert (memory.hits, memory.misses) == (0, 8)
    monkeypatch.setattr(TrainingCache, "audio", None)  # reading a clip would fail
    second, plain = batch_of(made, 8, training=1), batch_of(made, 8)
    assert (memory.hits, memory.misses) == (16, 8)
    assert not torch.equal(first["steps"], second["steps"])
    monkeypatch.undo()
    fresh = audio_input(caches("clips"), MemoryCache(0))
    assert torch.equal(plain["steps"], batch_of(fresh, 8)["steps"])
    for epoch, batch in enumerate((first, second)):
        assert torch.equal(batch["steps"], batch_of(fresh, 8, training=epoch)["steps"])


def test_the_memory_for_spectrograms_keeps_its_limit(caches: Caches) -> None:
    memory = MemoryCache(4000)
    made = audio_input(caches("clips"), memory)
    for _ in range(2):
        batch_of(made, 8)
        assert 0 < memory.size_bytes <= 4000
    assert memory.misses > 8


def test_a_job_keeps_no_more_than_its_setting(make_job: Callable[..., TrainingJob]) -> None:
    for limit, hits in ((2**24, 1), (0, 0)):
        job = make_job("align_audio", cache_bytes=limit)
        for epoch in (0, 1):
            job.train.sample(3, epoch)
        assert job.train._inputs._memory.hits == hits  # type: ignore[attr-defined]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "mask"), [("features", "mask"), ("audio", "mask"), ("text", "attention_mask")]
)
def test_the_mask_reaches_the_model(
    make_job: Callable[..., TrainingJob], name: str, mask: str
) -> None:
    """Under another mask the outputs are others; what is masked does not matter."""
    job = make_job(name)
    model = job.model.eval()
    batch = job.task.collate([job.train.sample(i, 0) for i in range(4)])["inputs"]
    before = model(**batch)
    shorter = batch[mask].clone()
    shorter[:, int(shorter.sum(dim=1).min()) - 1 :] = 0
    values = next(key for key in batch if key != mask)
    spoilt = batch[values].clone()
    spoilt[~batch[mask].bool()] = 3
    for head, logits in before.items():
        changed = (model(**batch | {mask: shorter})[head] - logits).abs().amax(dim=1)
        assert (changed > 1e-4).all()
        torch.testing.assert_close(
            model(**batch | {values: spoilt})[head], logits, rtol=1e-5, atol=1e-6
        )


def test_an_unknown_modality_is_refused_with_the_nearest_name() -> None:
    """In the settings, before anything is built."""
    params = {"task": {"inputs": {"modality": "imagge"}}}
    with pytest.raises(ConfigError, match="'imagge': unknown; did you mean image"):
        check_config(ClassificationTaskConfig, {"inputs": "task.inputs"}, params)
    with pytest.raises(ConfigError, match="modality 'adio' is unknown; did you mean audio"):
        INPUTS["adio"]
    with pytest.raises(ValidationError):
        ClassificationTaskConfig.model_validate({"inputs": {"modality": "image", "pitch": 1}})


def test_a_dataset_without_the_modality_is_named(caches: Caches) -> None:
    cache = caches("pairs")
    for settings, missing in (
        ({"modality": "features"}, "features"),
        ({"modality": "audio"} | SPECTROGRAM, "audio"),
        ({"modality": "image"}, "images"),
    ):
        config = INPUTS[settings["modality"]].model_validate(settings)
        with pytest.raises(DataError, match=f"this dataset has no {missing}"):
            build_input(config, cache, image_size=16).fetch(0)
    with pytest.raises(DataError, match="this dataset has no text"):
        build_input(TextInputConfig(modality="text"), caches("signals"))


def test_images_of_other_channels_than_the_statistics_name_both_settings(caches: Caches) -> None:
    gray = CASES["gray"].task["inputs"]
    for settings, data in ((gray, "pictures"), ({"modality": "image"}, "gray")):
        config = INPUTS["image"].model_validate(settings)
        with pytest.raises(DataError, match=r"task\.inputs\.normalize and .*tokenize\.image_mode"):
            build_input(config, caches(data), image_size=16)


def test_a_batch_of_gray_images_stays_one_channel(caches: Caches) -> None:
    cache = caches("gray")
    made = build_input(
        INPUTS["image"].model_validate(CASES["gray"].task["inputs"]), cache, image_size=16
    )
    pixels = batch_of(made, 5)["pixel_values"]
    assert pixels.shape == (5, 1, 16, 16)
    expected = (cache.images[:5].transpose(0, 3, 1, 2) / 255 - 0.4) / 0.25
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)


def test_a_sample_rate_that_is_not_that_of_the_cache_names_both(caches: Caches) -> None:
    config = AudioInputConfig.model_validate(SPECTROGRAM | {"sample_rate": 16_000, "fft": 256})
    with pytest.raises(ConfigError, match=r"inputs\.sample_rate = 16000, but .* holds 8000 Hz"):
        build_input(config, caches("clips"))


def test_the_special_ids_of_the_cases_are_those_of_their_tokenizers(caches: Caches) -> None:
    for name in {case.data for case in CASES.values()}:
        facts = caches(name).facts["special_ids"]
        assert facts is None or SpecialIds(**facts) == SpecialIds(pad=0, bos=1, eos=2)
