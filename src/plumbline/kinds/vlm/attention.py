"""Where a vision-language model looks while it answers: attention from an answer to its image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from plumbline.data.turns import IMAGE_ID
from plumbline.inspection.attention import AttentionWatch
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import StoredVlm, Vlm
from plumbline.kinds.vlm.talks import Talk, embed_talks
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import left_to_resize
from plumbline.loading.transforms import fit_images, resize_images

SHOWN = 8
"""Answers of which the attention is kept: half of them right, half wrong, where there are."""

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Asked:
    """What was read up to an answer, and the answer."""

    talk: Talk
    """Up to where the answer begins, with what begins it."""
    image: int | None
    """Number in the cache of the first image that it shows; None: it shows none."""
    written: Written


def ask_about(image_tokens: int, prompt: Sequence[int], bos: int, image: int) -> Talk:
    """A question as a conversation: the image, which is a row of the features, then the prompt."""
    return Talk([IMAGE_ID] * image_tokens + [*prompt, bos], [image])


def choose(asked: Sequence[Asked], correct: Sequence[bool]) -> list[int]:
    """The answers to look at: the surest mistakes, then right ones about other images.

    Of equally sure ones the first comes first. Right ones are spread over the split.
    """
    sure = sorted(range(len(asked)), key=lambda i: (-asked[i].written.confidence, i))
    wrong = _of_distinct_images(asked, [i for i in sure if not correct[i]])
    right = _of_distinct_images(asked, [i for i, good in enumerate(correct) if good])
    few = max(SHOWN // 2, SHOWN - len(right))
    chosen = wrong[:few]
    spread = np.linspace(0, len(right) - 1, min(SHOWN - len(chosen), len(right)))
    return [*chosen, *(right[int(at)] for at in spread)]


def _of_distinct_images(asked: Sequence[Asked], order: Sequence[int]) -> list[int]:
    """The first of each image."""
    # One picture of several mistakes says no more than of one.
    found: dict[int, int] = {}
    for i in order:
        image = asked[i].image
        if image is not None:
            found.setdefault(image, i)
    return list(found.values())


def attention_arrays(
    stored: StoredVlm,
    cache: TrainingCache,
    features: Tensor,
    asked: Sequence[Asked],
    correct: Sequence[bool],
) -> tuple[Arrays, dict[str, object]]:
    """The attention of some answers, as arrays of an evaluation with what is to be said of them.

    Args:
        stored: the model, in evaluation mode.
        cache: that has the images.
        features: [images, tokens, token_width], from the image encoder.
        asked: what was asked; the number of one is that of its prediction.
        correct: whether each was answered right.

    Returns:
        `attention` [chosen, layers, rows, columns], `attention_of` [chosen], the numbers, and
        `attention_images` [chosen, size, size, channels] uint8, as the encoder has them; and
        details. Nothing where no image is asked about, or its tokens are no square.
    """
    model, chosen = stored.model, choose(asked, correct)
    side = isqrt(model.image_tokens)
    # A projector that makes other tokens than the places of an image have, has no map.
    if not chosen or side**2 != model.image_tokens or model.image_encoder.tokens % side**2:
        return {}, {}
    maps = [look(model, features, asked[i]) for i in chosen]
    if not all(len(one) for one in maps):
        return {}, {}  # a decoder that tells no weights
    numbers = [image for i in chosen if (image := asked[i].image) is not None]
    arrays: Arrays = {
        # [chosen, layers, image_tokens]: tokens come row by row, as the encoder's patches do.
        "attention": np.stack(maps).reshape(len(chosen), -1, side, side),
        "attention_of": np.array(chosen, np.int64),
        "attention_images": _as_seen(stored, cache, numbers),
    }
    return arrays, {"attention": {"layers": len(maps[0]), "heads": "mean", "tokens": side**2}}


def _as_seen(stored: StoredVlm, cache: TrainingCache, numbers: list[int]) -> NDArray[np.uint8]:
    """Images [numbers, size, size, channels] as the encoder is given them, but for statistics."""
    spec = stored.spec
    size = spec.image_encoder.image_size
    images = torch.from_numpy(np.array(cache.images[numbers]))
    fitted = fit_images(images, size, left_to_resize(spec.images, cache))
    resized = resize_images(fitted.permute(0, 3, 1, 2), size)  # [numbers, channels, size, size]
    seen: NDArray[np.uint8] = resized.permute(0, 2, 3, 1).contiguous().numpy()
    return seen


@torch.inference_mode()
def look(model: Vlm, features: Tensor, asked: Asked) -> Floats:
    """Attention to each token of the first image, while the answer is written.

    The weights of every layer, as the mean over its heads and over the positions that write the
    answer and what ends it. They are computed step by step, which kernels of attention are not.

    Args:
        model: in evaluation mode.
        features: [images, tokens, token_width], from the image encoder.
        asked: what was read, and the answer.

    Returns:
        [layers, image_tokens]; a row adds up to the share of the attention that the image has.
    """
    # What is written last is predicted and not read.
    ids = [*asked.talk.ids, *asked.written.ids]
    inputs = embed_talks(model, features, [Talk(ids, asked.talk.images)])
    # An id that no text has stands at each token of an image, so the first begins the image.
    first = ids.index(IMAGE_ID)
    places = slice(first, first + model.image_tokens)
    layers: list[Tensor] = []
    with AttentionWatch(model, partial(_keep, layers, len(asked.written.ids) + 1, places)):
        model.decoder.model(inputs_embeds=inputs, use_cache=False)
    if not layers:
        return np.zeros((0, model.image_tokens), np.float32)
    stacked: Floats = torch.stack(layers).cpu().numpy()
    return stacked


def _keep(
    layers: list[Tensor], writing: int, places: slice, module: nn.Module, weights: Tensor
) -> None:
    """Take from weights [1, heads, queries, keys] what the last `writing` queries see."""
    # In float32, since a mean over many heads in half precision would lose the small ones.
    layers.append(weights[0, :, -writing:, places].float().mean(dim=(0, 1)))
