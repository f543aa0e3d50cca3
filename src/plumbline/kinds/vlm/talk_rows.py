"""Conversations that show images: samples, and rows of one or several of them.

An image stands where its turn shows it. Each conversation is one causal sequence, whatever row it
is in: its tokens, those of its images among them, see what stands before them in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places, sample_numbers
from plumbline.data.resizing import Resize
from plumbline.data.turns import IMAGE_ID
from plumbline.kinds.language.chat_rows import ChatRows
from plumbline.kinds.vlm.rows import Ids, join_places
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.kept_features import KeptFeatures, as_tensor
from plumbline.loading.order import SampleShards
from plumbline.loading.packing import Layout
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import RawImages, fit_images


class TalkSource:
    """One sample per conversation of a split, with its images as far as it is read."""

    def __init__(
        self,
        cache: TrainingCache,
        split: str,
        block_size: int,
        image_tokens: int,
        features: KeptFeatures | None,
    ) -> None:
        """Find the conversations of a split.

        Args:
            cache: conversations and images.
            split: name of the split.
            block_size: tokens seen at most, those of images among them.
            image_tokens: that each image takes.
            features: [tokens, token_width] of the frozen encoder, by image number; None when images
                are encoded at each step.

        Raises:
            DataError: there is no conversation, or none whose first exchange fits.
        """
        self.talks = ChatRows(cache, split, block_size, image_tokens=image_tokens)
        self._cache, self._image_tokens, self._features = cache, image_tokens, features
        self._images = cache.images if features is None else None
        self._shown, self._begins = cache.shown(split)

    def __len__(self) -> int:
        """Number of conversations."""
        return len(self.talks)

    def length(self, index: int) -> int:
        """Tokens of a conversation, as far as it is read, those of images among them."""
        return self.talks.length(index)

    def images(self, index: int) -> NDArray[np.int32]:
        """Numbers of the images of a conversation, as far as it is read: [images]."""
        begin = self._begins[self.talks.rows[index]]
        ids = self.talks.cached.ids(self.talks.number(index))[: self.length(index)]
        # No image is cut: what is read ends with an answer, and users alone show images.
        count = int((ids == IMAGE_ID).sum()) // self._image_tokens
        return self._shown[begin : begin + count]

    def shards(self) -> SampleShards | None:
        """See `ShardedSource`: of the first image of each, or of any."""
        if self._images is None:
            return None
        shown = [self.images(index)[:1] for index in range(len(self))]
        first = np.array([images[0] if len(images) else 0 for images in shown])
        return self._cache.shards("image", first)

    def sample(self, index: int, epoch: int) -> Sample:
        """A conversation: ids, labels [tokens], and what its images are, in their order."""
        images = self.images(index)
        # One of the two: what a frozen encoder has made of the images, or the images themselves.
        visual: dict[str, object] = {}
        if self._images is not None:
            visual["pixels"] = self._images[images]  # [images, height, width, channels]
        if self._features is not None:
            visual["features"] = self._features.take(images)  # [images, tokens, token_width]
        return {**self.talks.sample(index, epoch), **visual}


@dataclass(frozen=True)
class TalkRows:
    """How conversations become rows."""

    normalize: Normalization
    pad: int
    image_size: int
    resize: Resize | None = None
    """Of images that the cache does not hold as the model takes them."""
    raw: bool = False
    """Whether images are left to the device to finish."""

    def padded(self, samples: Sequence[Sample]) -> Batch:
        """Give each conversation a row, and pad the rows; returns what `packed` does."""
        return self._lay_out(samples, Layout([[at] for at in range(len(samples))]))

    def packed(self, samples: Sequence[Sample]) -> Batch:
        """Lay conversations out one behind the other, in rows as long as the longest.

        Returns:
            input_ids, position_ids [rows, seq]; labels [rows, seq], the token that each position
            says next, with `labelled_places`; mask, see `join_places`; image_places [rows, seq]
            bool; sample_index [samples]; and, of all images in the order of their places,
            image_features [images, tokens, token_width] or pixel_values
            [images, channels, size, size].
        """
        # Dense masks cost the square of a row, so none gets longer than padding would make it.
        lengths = np.array([[len(sample["ids"])] for sample in samples])
        return self._lay_out(samples, Layout.first_fit(lengths))

    def _lay_out(self, samples: Sequence[Sample], layout: Layout) -> Batch:
        # Shifted before they are joined: the last token of a sample does not say the next one's
        # first.
        ids: list[Ids] = [sample["ids"][:-1] for sample in samples]
        shifted: list[Ids] = [sample["labels"][1:] for sample in samples]
        places = [each == IMAGE_ID for each in ids]
        filled = [np.where(place, self.pad, each) for place, each in zip(places, ids, strict=True)]
        labels = layout.join(shifted, IGNORE_INDEX)
        # [rows, seq]: padding counts to the last conversation, behind all that it says.
        begins = layout.join([np.arange(len(each)) == 0 for each in ids], 0).numpy()
        return {
            "input_ids": layout.join(filled, self.pad),
            "labels": labels,
            **labelled_places(labels),
            "position_ids": layout.positions([len(each) for each in ids]),
            # One segment each, tokens of images among it: they see no further than words do.
            "mask": join_places(np.ones_like(begins), begins.cumsum(axis=1)),
            "image_places": layout.join(places, 0).bool(),
            **self._shared([samples[at] for row in layout.rows for at in row]),
        }

    def _shared(self, samples: Sequence[Sample]) -> Batch:
        """What has nothing to do with rows, but for their order."""
        batch: Batch = {"sample_index": torch.from_numpy(sample_numbers(samples))}
        if "features" in samples[0]:
            features = np.concatenate([sample["features"] for sample in samples])
            return batch | {"image_features": as_tensor(features)}
        images = np.concatenate([sample["pixels"] for sample in samples])
        fitted = fit_images(torch.from_numpy(images), self.image_size, self.resize)
        pixels = RawImages.of(fitted, self.normalize, self.image_size)
        if not len(images):  # nobody shows one
            return batch | {"pixel_values": torch.zeros(pixels.shape)}
        return batch | {"pixel_values": pixels if self.raw else pixels.finish()}
