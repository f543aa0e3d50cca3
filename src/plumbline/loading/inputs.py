"""From the cache to what a model is given: one class per modality.

An input fetches one sample's value and collates many; the names of what it collates are those of
the encoders' arguments, so a batch reaches its model by keyword.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from plumbline.batch import Batch, Sample, column
from plumbline.data.resizing import Resize
from plumbline.errors import ConfigError, DataError
from plumbline.loading.audio_transforms import (
    audio_steps,
    augment_waveforms,
    fill_with_silence,
    mask_spectrograms,
    stack_waveforms,
)
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.cached_images import CachedImages, where_they_lie
from plumbline.loading.input_config import (
    AudioInputConfig,
    FeaturesInputConfig,
    ImageInputConfig,
    InputConfig,
    TextInputConfig,
)
from plumbline.loading.kept_memory import KeptMemory
from plumbline.loading.masks import padding_mask
from plumbline.loading.media_reader import EncodedImages
from plumbline.loading.memory_cache import MemoryCache
from plumbline.loading.order import SampleShards
from plumbline.loading.random import keyed_generator
from plumbline.loading.text_batches import collate_texts
from plumbline.loading.transforms import UNCHANGED, Draws, RawImages, fit_images, stack_images
from plumbline.registry import load_attribute
from plumbline.tokenization.tokenizer import SpecialIds

Value = NDArray[np.generic]


class Input(ABC):
    """Base of the inputs."""

    names: tuple[str, ...]
    """Keys of what `collate` gives."""
    media: str | None = None
    """Whose files of the cache decide its values, see `TrainingCache.media_files`; None: any."""

    @abstractmethod
    def fetch(self, number: int) -> Value:
        """The value that has this number in the cache, as `collate` takes it."""

    def fetch_all(self, numbers: NDArray[np.integer]) -> Sequence[Value]:
        """The values with these numbers [values], where an input can all at once."""
        return [self.fetch(int(number)) for number in numbers]

    def draws(self, samples: Sequence[Sample], seed: int) -> list[Generator] | None:
        """A generator for the augmentation of each sample; None where there is none."""
        keys = zip(column(samples, "epoch"), column(samples, "index"), strict=True)
        # Keyed by sample and epoch: a value is augmented alike in whichever batch it is.
        return [keyed_generator(seed, "augment", epoch, index) for epoch, index in keys]

    def contents(self, numbers: NDArray[np.integer]) -> Sequence[bytes] | None:
        """Of each of the values with these numbers what is equal where values are: [values].

        None: each number is another value.
        """
        return None

    def length(self, number: int) -> int:
        """How much work a value is, in steps or tokens; 1 where all are equal."""
        return 1

    def shards(self, numbers: NDArray[np.integer]) -> SampleShards | None:
        """Where the values with these numbers [values] are read from; None: from no shards."""
        return None

    def say_cut(  # noqa: B027 - most inputs cut nothing
        self, split: str, numbers: NDArray[np.integer]
    ) -> None:
        """Log how many of the values with these numbers [values] are cut, where any may be."""

    @abstractmethod
    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """Stack values, padded to the longest.

        Args:
            values: as `fetch` gives them.
            names: of the samples, for messages.
            draws: in training a generator per sample for its augmentation; None: evaluation.
        """

    def collate_raw(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """As `collate` [batch, ...], deferred where the device can do the rest."""
        return self.collate(values, names, draws)


def build_input(
    config: InputConfig,
    cache: TrainingCache,
    *,
    image_size: int | None = None,
    cache_bytes: int = 0,
    as_asked: bool = False,
) -> Input:
    """Make the input of some settings.

    Args:
        config: its class names the class that is made.
        cache: of the dataset.
        image_size: side of the model's images, in pixels.
        cache_bytes: most memory for decoded values that are kept for the next epoch.
        as_asked: treat cached images as a bundle treats those that it is asked with.

    Raises:
        DataError: the dataset has no such input.
    """
    made: Input = load_attribute(config.builder)(
        *(config, cache),
        image_size=image_size,
        memory=MemoryCache(cache_bytes),
        as_asked=as_asked,
    )
    return made


def left_to_resize(config: ImageInputConfig, cache: TrainingCache) -> Resize | None:
    """How cached images are still to be resized: not where the cache has done it."""
    return config.settled if cache.image_resize is None else None


class ImageInput(Input):
    """pixel_values [batch, channels, size, size], float32."""

    names = ("pixel_values",)
    media = "image"

    def __init__(
        self,
        config: ImageInputConfig,
        cache: TrainingCache,
        *,
        image_size: int,
        memory: MemoryCache | None = None,
        as_asked: bool = False,
        **others: object,
    ) -> None:
        """Read from the cache's images; decoded ones are kept in memory by the operating system.

        Raises:
            DataError: there are none, or the settings' statistics are for other channels.
        """
        self._config, self._images, self._size = config, cache.images, image_size
        if memory is not None and isinstance(self._images, EncodedImages):
            self._images = self._images.keeping(memory)
        self._cache, self._lying = cache, where_they_lie(self._images)
        config.normalize.check_channels(self._images.shape[-1])
        self._none = RawImages.of(
            torch.empty(0, *self._images.shape[1:]), config.normalize, image_size, config.augment
        )
        self._memory, self._bytes = KeptMemory(), KeptMemory(torch.uint8)
        self._resize = config.settled if as_asked else left_to_resize(config, cache)

    def fetch(self, number: int) -> Value:
        """See `Input`."""
        return self._images[number]

    def fetch_all(self, numbers: NDArray[np.integer]) -> Sequence[Value]:
        """See `Input`."""
        return CachedImages(self._images, numbers, self._lying)

    def shards(self, numbers: NDArray[np.integer]) -> SampleShards | None:
        """See `Input`."""
        return self._cache.shards("image", numbers)

    def draws(self, samples: Sequence[Sample], seed: int) -> list[Generator] | None:
        """See `Input`."""
        return None if self._config.augment == UNCHANGED else super().draws(samples, seed)

    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """See `Input`."""
        out = self._memory.take(len(values), self._images.shape[-1], self._size, self._size)
        if isinstance(values, CachedImages) and self._resize is None:
            drawn = draws and Draws.of(self._config.augment, draws)
            return {"pixel_values": self._none.finish_parts(values.part, drawn or None, out)}
        return {"pixel_values": self._raw(values, names, draws).finish(out)}

    def collate_raw(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """See `Input`."""
        return {"pixel_values": self._raw(values, names, draws)}

    def _raw(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> RawImages:
        if isinstance(values, CachedImages):
            pixels = values.pixels(self._bytes)
        else:
            pixels = stack_images([np.asarray(value, np.uint8) for value in values], names)
        size = self._size if draws is None else self._size + self._config.augment.enlarge
        return self._none.holding(fit_images(pixels, size, self._resize), draws)


class AudioInput(Input):
    """steps [batch, steps, channels] float32 and mask [batch, steps] bool."""

    names = ("steps", "mask")
    media = "audio"

    def __init__(
        self,
        config: AudioInputConfig,
        cache: TrainingCache,
        *,
        memory: MemoryCache | None = None,
        **others: object,
    ) -> None:
        """Read clips.

        Raises:
            ConfigError: the cache holds another sample rate than the settings.
        """
        self._config, self._cache, self._memory = config, cache, memory
        rate = cache.facts.get("audio", {}).get("sample_rate", config.sample_rate)
        if rate != config.sample_rate:
            raise ConfigError(
                f"inputs.sample_rate = {config.sample_rate}, but the cache {cache.folder} holds "
                f"{rate} Hz: set tokenize.sample_rate of the dataset to the same"
            )
        augment = config.augment
        # Then a clip has other steps in every epoch, and none can be kept.
        self._changes_samples = bool(augment.shift_ms or augment.gain_db)
        self.channels = config.channels

    def length(self, number: int) -> int:
        """Frames, or samples of a waveform."""
        return self._config.count_steps(int(self._cache.lengths("audio")[number]))

    def shards(self, numbers: NDArray[np.integer]) -> SampleShards | None:
        """See `Input`."""
        return self._cache.shards("audio", numbers)

    def say_cut(self, split: str, numbers: NDArray[np.integer]) -> None:
        """See `Input`."""
        if limit := self._config.max_steps:
            steps = -(-self._cache.lengths("audio")[numbers] // self._config.samples_per_step)
            self._cache.say_cut(split, steps, limit, "clips", "inputs.max_steps")

    def fetch(self, number: int) -> Value:
        """See `Input`; the samples where training changes them, else the steps."""
        if self._changes_samples:
            return self._cache.audio(number)
        if self._memory is None:
            return self._steps(number)
        return self._memory.get(number, lambda: self._steps(number))

    def _steps(self, number: int) -> Value:
        # A copy: the memory map is read-only, which torch warns of.
        samples = torch.from_numpy(np.array(self._cache.audio(number)))
        steps, _ = audio_steps(samples[None], torch.tensor([len(samples)]), self._config)
        value: Value = steps[0].numpy()
        return value

    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """See `Input`."""
        if self._changes_samples:
            waveforms, lengths = stack_waveforms([np.array(value) for value in values])
            if draws is not None:
                waveforms = augment_waveforms(
                    waveforms, lengths, self._config.augment, self._config.sample_rate, draws
                )
            steps, mask = audio_steps(waveforms, lengths, self._config)
        else:
            steps, mask = _pad_steps(values)
        steps, mask = fill_with_silence(steps, mask, self._config)
        if draws is not None:
            steps = mask_spectrograms(steps, mask, self._config.augment, draws)
        return {"steps": steps, "mask": mask}


class FeaturesInput(Input):
    """steps [batch, steps, channels] float32 and mask [batch, steps] bool."""

    names = ("steps", "mask")

    def __init__(self, config: FeaturesInputConfig, cache: TrainingCache, **others: object) -> None:
        """Read feature arrays.

        Raises:
            DataError: the dataset has none.
        """
        if "features" not in cache.facts:
            raise DataError(f"{cache.folder}: this dataset has no features")
        self._config, self._cache = config, cache
        facts = cache.facts["features"]
        self.channels = int(facts["channels"])
        self._mean = np.array(facts["mean_of_channels"], np.float32)
        # A channel that never changes has deviation 0: it becomes 0, not NaN.
        self._scale = 1 / np.maximum(np.array(facts["std_of_channels"], np.float32), 1e-6)

    def length(self, number: int) -> int:
        """Steps."""
        length = int(self._cache.lengths("features")[number])
        return min(length, self._config.max_steps or length)

    def say_cut(self, split: str, numbers: NDArray[np.integer]) -> None:
        """See `Input`."""
        if limit := self._config.max_steps:
            lengths = self._cache.lengths("features")[numbers]
            self._cache.say_cut(split, lengths, limit, "sequences", "inputs.max_steps")

    def fetch(self, number: int) -> Value:
        """See `Input`."""
        return self._cache.features(number)[: self._config.max_steps]

    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """See `Input`."""
        if self._config.standardize:
            arrays = [np.asarray(value, np.float32) for value in values]
            values = [(array - self._mean) * self._scale for array in arrays]
        steps, mask = _pad_steps(values)
        return {"steps": steps, "mask": mask}


def _pad_steps(values: Sequence[Value]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(value) for value in values])
    # [batch, longest, channels]: 0 is the mean of a channel where values are standardised.
    steps = np.zeros((len(values), int(lengths.max()), values[0].shape[1]), np.float32)
    for row, value in zip(steps, values, strict=True):
        row[: len(value)] = value
    return torch.from_numpy(steps), padding_mask(lengths, steps.shape[1])


class TextInput(Input):
    """input_ids and attention_mask [batch, seq], int64."""

    names = ("input_ids", "attention_mask")

    def __init__(self, config: TextInputConfig, cache: TrainingCache, **others: object) -> None:
        """Read token ids.

        Raises:
            DataError: the dataset has no text.
        """
        if cache.facts["special_ids"] is None:
            raise DataError(f"{cache.folder}: this dataset has no text")
        self._config, self._cache = config, cache
        self._special_ids = SpecialIds(**cache.facts["special_ids"])

    def length(self, number: int) -> int:
        """Tokens, with bos and eos."""
        return min(int(self._cache.text_lengths()[number]), self._config.max_tokens) + 2

    def say_cut(self, split: str, numbers: NDArray[np.integer]) -> None:
        """See `Input`."""
        lengths, limit = self._cache.text_lengths()[numbers], self._config.max_tokens
        self._cache.say_cut(split, lengths, limit, "texts", "inputs.max_tokens")

    def contents(self, numbers: NDArray[np.integer]) -> Sequence[bytes] | None:
        """See `Input`; what is cut off makes no difference."""
        ids, most = self._cache.ids, self._config.max_tokens
        return [ids(int(number))[:most].tobytes() for number in numbers]

    def fetch(self, number: int) -> Value:
        """See `Input`."""
        return self._cache.ids(number)

    def collate(
        self, values: Sequence[Value], names: Sequence[object], draws: Sequence[Generator] | None
    ) -> Batch:
        """See `Input`."""
        # Before the framing, so that bos and eos are never dropped.
        if draws is not None and self._config.word_dropout:
            keep = 1 - self._config.word_dropout
            pairs = zip(values, draws, strict=True)
            values = [value[random.random(len(value)) < keep] for value, random in pairs]
        return collate_texts(values, self._special_ids, self._config.max_tokens)
