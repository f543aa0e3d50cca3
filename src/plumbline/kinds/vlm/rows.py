"""From images with their texts to rows: how questions share an image, and images a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Batch, Sample, labelled_places
from plumbline.data.resizing import Resize
from plumbline.loading.kept_features import as_tensor
from plumbline.loading.loader import pad_rows
from plumbline.loading.packing import Layout
from plumbline.loading.transform_config import Normalization
from plumbline.loading.transforms import RawImages, fit_images, stack_images
from plumbline.tokenization.tokenizer import SpecialIds

IMAGE, PADDING = 0, -1
"""What stands in a row beside segments, which count from 1."""

Ids = NDArray[np.integer]
Segment = tuple[Ids, Ids]
"""Token ids of a prompt and of its answer."""


def join_segment(segment: Segment, special_ids: SpecialIds, limit: int) -> tuple[Ids, Ids]:
    """One segment as ids and labels, [length] each; prompt and bos have no label.

    It is `prompt <bos> answer <eos>`.
    """
    prompt, answer = segment[0][:limit], segment[1][:limit]
    ids = np.concatenate([prompt, [special_ids.bos], answer, [special_ids.eos]])
    labels = ids.copy()
    labels[: len(prompt) + 1] = IGNORE_INDEX  # the shift to the next token is the loss's
    return ids, labels


@dataclass(frozen=True)
class Dialogue:
    """The segments of an image one behind the other: [length] each."""

    ids: Ids
    labels: Ids
    segment: Ids
    """Number of a token's segment."""
    positions: Ids
    """Every segment begins right behind the image, as if it were alone with it."""

    @classmethod
    def of(
        cls, segments: Sequence[Segment], special_ids: SpecialIds, limit: int, image_tokens: int
    ) -> "Dialogue":
        """Join them; longer prompts and answers are cut to `limit` tokens."""
        joined = [join_segment(segment, special_ids, limit) for segment in segments]
        ids, labels = (np.concatenate(parts) for parts in zip(*joined, strict=True))
        lengths = [len(each) for each, _ in joined]
        numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        positions = np.concatenate([image_tokens + np.arange(length) for length in lengths])
        return cls(ids, labels, numbers, positions)

    def behind_image(self, image_tokens: int, pad: int) -> "Dialogue":
        """The same with the tokens of the image in front."""

        def led_by(value: int, texts: Ids) -> Ids:
            return np.concatenate([np.full(image_tokens, value), texts])

        return Dialogue(
            led_by(pad, self.ids),
            led_by(IGNORE_INDEX, self.labels),
            led_by(IMAGE, self.segment),
            np.concatenate([np.arange(image_tokens), self.positions]),
        )


def text_places(segment: NDArray[np.int64], image_tokens: int) -> Tensor:
    """What `dialogue_mask` takes of rows of one image each.

    Args:
        segment: [batch, seq], the number of each text position's segment from 1, 0 for padding.
        image_tokens: image positions before the text.
    """
    text = np.where(segment == 0, PADDING, segment)
    whole = np.pad(text, ((0, 0), (image_tokens, 0)), constant_values=IMAGE)
    return join_places(whole, np.ones_like(whole))


def join_places(segment: NDArray[np.int64], image: NDArray[np.int64]) -> Tensor:
    """What `dialogue_mask` takes; where rows have one text alone, nothing: each sees its past.

    Args:
        segment: [rows, seq], `IMAGE`, the number of a text's segment from 1, or `PADDING`.
        image: [rows, seq], the number of the image that a position is about; padding has one too.
    """
    places = np.stack([segment, image], axis=2)
    # Padding is behind all that counts, so that nobody minds what it sees.
    alone = (segment <= 1).all() and (image[:, :1] == image).all()
    # Of its own: a part of another would have the strides of its length, and each its program.
    return torch.from_numpy(np.empty((len(places), 0, 2), np.int64) if alone else places)


def dialogue_mask(places: Tensor) -> Tensor:
    """Who sees whom: an image its own past, every text token its image and its segment's past.

    Made where the model is: of numbers of segments, not of pairs, a batch brings few.

    Args:
        places: [rows, seq, 2], as `join_places` makes them.

    Returns:
        [rows, 1, seq, seq] bool: who sees, who is seen; padding sees the image, so that no row of
        the softmax is empty.
    """
    segment, image = places.unbind(2)
    # [rows, who sees, who is seen]
    seen = (segment[:, :, None] == segment[:, None, :]) & (segment != PADDING)[:, None, :]
    seen |= (segment == IMAGE)[:, None, :]  # the image, by all that come after it
    # Between images nothing passes, not even from padding: it counts to the last image.
    seen &= image[:, :, None] == image[:, None, :]
    return (seen & torch.ones_like(seen[0]).tril())[:, None]


@dataclass(frozen=True)
class Rows:
    """How images with their texts become rows."""

    max_text_tokens: int
    normalize: Normalization
    special_ids: SpecialIds
    image_size: int
    image_tokens: int
    resize: Resize | None = None
    """Of images that the cache does not hold as the model takes them."""
    raw: bool = False
    """Whether images are left to the device to finish."""

    def padded(self, samples: Sequence[Sample]) -> Batch:
        """Give each image a row with all its segments, and pad the rows.

        Returns:
            input_ids, labels [batch, seq], with `labelled_places`; position_ids
            [batch, image_tokens + seq]; mask, see `join_places`; sample_index [batch]; and
            image_features [batch, tokens, token_width] or pixel_values
            [batch, channels, size, size].
        """
        dialogues = self._dialogues(samples)
        segment = pad_rows([dialogue.segment for dialogue in dialogues], 0)
        texts = pad_rows([dialogue.positions for dialogue in dialogues], self.image_tokens)
        images = np.tile(np.arange(self.image_tokens), (len(samples), 1))
        ids = pad_rows([dialogue.ids for dialogue in dialogues], self.special_ids.pad)
        rows = pad_rows([dialogue.labels for dialogue in dialogues], IGNORE_INDEX)
        labels = torch.from_numpy(rows)
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": labels,
            **labelled_places(labels),
            "position_ids": torch.from_numpy(np.concatenate([images, texts], axis=1)),
            "mask": text_places(segment, self.image_tokens),
            **self._shared(samples),
        }

    def packed(self, samples: Sequence[Sample]) -> Batch:
        """Lay images with their segments out one behind the other, in rows as long as the longest.

        Returns:
            What `padded` gives, of [rows, seq], where seq counts the tokens of images too and
            image_places [rows, seq] bool says where they stand; images are in that order.
        """
        whole = [
            dialogue.behind_image(self.image_tokens, self.special_ids.pad)
            for dialogue in self._dialogues(samples)
        ]
        # Dense masks cost the square of a row, so none gets longer than padding would make it.
        layout = Layout.first_fit(np.array([[len(dialogue.ids)] for dialogue in whole]))
        segment = layout.join([dialogue.segment for dialogue in whole], PADDING)
        # [rows, seq]: each begins with an image, and padding counts to the last one.
        begins = layout.join([np.arange(len(each.ids)) == 0 for each in whole], 0)
        labels = layout.join([each.labels for each in whole], IGNORE_INDEX)
        return {
            "input_ids": layout.join([each.ids for each in whole], self.special_ids.pad),
            "labels": labels,
            **labelled_places(labels),
            "position_ids": layout.join([each.positions for each in whole], 0),
            "mask": join_places(segment.numpy(), begins.numpy().cumsum(axis=1)),
            "image_places": segment == IMAGE,
            **self._shared([samples[at] for row in layout.rows for at in row]),
        }

    def _dialogues(self, samples: Sequence[Sample]) -> list[Dialogue]:
        limit, ids = self.max_text_tokens, self.special_ids
        return [Dialogue.of(s["segments"], ids, limit, self.image_tokens) for s in samples]

    def _shared(self, samples: Sequence[Sample]) -> Batch:
        """What has nothing to do with rows."""
        numbers = [sample["index"] for sample in samples]
        batch: Batch = {"sample_index": torch.tensor(numbers)}
        if "features" in samples[0]:
            features = as_tensor(np.stack([s["features"] for s in samples]))
            return batch | {"image_features": features}
        pixels = stack_images([sample["pixels"] for sample in samples], numbers)
        pixels = fit_images(pixels, self.image_size, self.resize)
        images = RawImages.of(pixels, self.normalize, self.image_size)
        return batch | {"pixel_values": images if self.raw else images.finish()}
