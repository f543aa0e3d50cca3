"""Where a vision-language model looks while it answers: attention from an answer to its image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from plumbline.inspection.attention import AttentionWatch
from plumbline.kinds.vlm.generation import Written
from plumbline.kinds.vlm.model import Vlm

SHOWN = 8
"""Answers of which the attention is kept: half of them right, half wrong, where there are."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A question about an image, and what was written."""

    image: int
    """Its row among the features."""
    prompt: list[int]
    """Token ids without bos."""
    written: Written


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
    found: dict[int, int] = {}
    for i in order:
        found.setdefault(asked[i].image, i)
    return list(found.values())


def attention_arrays(
    model: Vlm,
    features: Tensor,
    asked: Sequence[Asked],
    correct: Sequence[bool],
    bos: int,
) -> tuple[dict[str, NDArray[np.generic]], dict[str, object]]:
    """The attention of some answers, as arrays of an evaluation with what is to be said of them.

    Args:
        model: in evaluation mode.
        features: [images, tokens, token_width], from the image encoder.
        asked: what was asked; the number of one is that of its prediction.
        correct: whether each was answered right.
        bos: id that begins an answer.

    Returns:
        `attention` [chosen, layers, rows, columns] and `attention_of` [chosen], the numbers; and
        details. Nothing where no question was asked, or the tokens of an image are no square.
    """
    chosen = choose(asked, correct)
    side = isqrt(model.image_tokens)
    # A projector that makes other tokens than the places of an image have, has no map.
    if not chosen or side**2 != model.image_tokens or model.image_encoder.tokens % side**2:
        return {}, {}
    maps = [look(model, features[asked[i].image], asked[i], bos) for i in chosen]
    if not all(len(one) for one in maps):
        return {}, {}  # a decoder that tells no weights
    arrays: dict[str, NDArray[np.generic]] = {
        "attention": np.stack(maps).reshape(len(chosen), -1, side, side),
        "attention_of": np.array(chosen, np.int64),
    }
    return arrays, {"attention": {"layers": len(maps[0]), "heads": "mean", "tokens": side**2}}


@torch.inference_mode()
def look(model: Vlm, features: Tensor, asked: Asked, bos: int) -> Floats:
    """Attention to each token of the image, while the answer is written.

    The weights of every layer, as the mean over its heads and over the positions that write the
    answer and what ends it. They are computed step by step, which kernels of attention are not.

    Args:
        model: in evaluation mode.
        features: [tokens, token_width] of the image.
        asked: question and answer.
        bos: id that begins an answer.

    Returns:
        [layers, image_tokens]; a row adds up to the share of the attention that the image has.
    """
    # What is written last is predicted and not read.
    ids = torch.tensor([[*asked.prompt, bos, *asked.written.ids]], device=features.device)
    image = model.embed_image(features[None])
    text = model.decoder.get_input_embeddings()(ids)  # [1, seq, width]
    writing = len(asked.written.ids) + 1
    layers: list[Tensor] = []
    with AttentionWatch(model, partial(_keep, layers, writing, model.image_tokens)):
        model.decoder.model(
            inputs_embeds=torch.cat([image.to(text.dtype), text], dim=1), use_cache=False
        )
    if not layers:
        return np.zeros((0, model.image_tokens), np.float32)
    stacked: Floats = torch.stack(layers).cpu().numpy()
    return stacked


def _keep(
    layers: list[Tensor], writing: int, image_tokens: int, module: nn.Module, weights: Tensor
) -> None:
    """Take from weights [1, heads, queries, keys] what the last `writing` queries see."""
    layers.append(weights[0, :, -writing:, :image_tokens].float().mean(dim=(0, 1)))
