"""Losses that pull the two sides of a pair together: InfoNCE, sigmoid, Matryoshka."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from plumbline.batch import LossSum

LossOfWidth = Callable[[Tensor, Tensor, Tensor], LossSum]
"""(images [batch, width], texts [batch, width], positives [batch, batch] bool) -> loss."""


class PairLoss(Protocol):
    """What the entries of `plumbline.kinds.alignment.settings.PAIR_LOSSES` name."""

    def __call__(
        self,
        images: Tensor,
        texts: Tensor,
        positives: Tensor,
        *,
        logit_scale: Tensor,
        logit_bias: Tensor,
    ) -> LossSum:
        """Sum a loss over the pairs of an optimiser step; the count is that of pairs.

        Args:
            images: [batch, width], unit length; of another medium where that is aligned.
            texts: [batch, width], unit length.
            positives: [batch, batch] bool, as in `info_nce`.
            logit_scale: 1 / temperature, [], learnt.
            logit_bias: [], learnt, and without a gradient where a loss does not use it.
        """
        ...


def shared_positives(media: Tensor, texts: Tensor) -> Tensor:
    """Say which text fits which medium, from their numbers.

    Args:
        media: [batch], the number of each row's image or recording.
        texts: [batch], the number of each row's text; one below 0 is a text left out, which fits
            the media of its own row alone: all texts left out would be called the same.

    Returns:
        [batch, batch] bool, [i, j] true when text j fits medium i; the diagonal is true.
    """
    itself = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
    same_text = (texts[:, None] == texts) & ((texts >= 0)[:, None] | itself)
    return same_text | (media[:, None] == media)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def info_nce(
    images: Tensor,
    texts: Tensor,
    positives: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float = 0.0,
) -> LossSum:
    """Symmetric InfoNCE with any number of positives a row, summed over the pairs.

    Each direction is the cross-entropy against the uniform distribution over a row's positives;
    with one positive a row that is the loss of CLIP. The sum is the mean of both directions.

    Where inputs that are equal have equal embeddings, as without dropout, several positives give
    the sum of the diagonal alone: each of the rows that share a text gives half of its target to
    the other's image, and the two halves swap. They change it where embeddings differ, by dropout
    or augmentation, and in `sigmoid_pairs` always.

    Args:
        images: [batch, width], unit length.
        texts: [batch, width], unit length.
        positives: [batch, batch] bool, [i, j] true when text j fits image i; the diagonal is true.
        logit_scale: 1 / temperature.
        logit_bias: not used: a softmax is the same whatever is added to all of its logits.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3; several positives: Khosla et al. 2020,
    arXiv:2004.11362, equation 2.
    """
    logits = _at_least_float32(logit_scale * images @ texts.T)  # [image, text]
    total = (_soft_targets(logits, positives) + _soft_targets(logits.T, positives.T)) / 2
    return LossSum(total, torch.tensor(len(images), device=logits.device))


def _soft_targets(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return -(targets * functional.log_softmax(logits, dim=1)).sum()


def sigmoid_pairs(
    images: Tensor,
    texts: Tensor,
    positives: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
) -> LossSum:
    """Sum the pairwise sigmoid loss, counted per image.

    Args:
        images: [batch, width], unit length.
        texts: [batch, width], unit length.
        positives: [batch, batch] bool, as in `info_nce`.
        logit_scale: 1 / temperature.
        logit_bias: added to every logit, so that the many negatives do not outweigh at the start.

    Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1.
    """
    logits = _at_least_float32(logit_scale * images @ texts.T + logit_bias)
    signs = positives.to(logits.dtype) * 2 - 1  # 1 for a pair that fits, -1 for any other
    total = -functional.logsigmoid(signs * logits).sum()
    return LossSum(total, torch.tensor(len(images), device=logits.device))


def matryoshka(
    images: Tensor, texts: Tensor, positives: Tensor, widths: Sequence[int], loss: LossOfWidth
) -> LossSum:
    """Average a loss over prefixes of the embeddings, each scaled to unit length again.

    Args:
        images: [batch, embed_dim], of any length.
        texts: [batch, embed_dim], of any length.
        positives: [batch, batch] bool.
        widths: the prefix widths; one sampled width per batch trains them all over time.
        loss: the loss at one width.

    Raises:
        ValueError: no width, or one larger than the embeddings.

    Source: Kusupati et al. 2022, arXiv:2205.13147, equation 1 (equal weights).
    """
    if not widths or max(widths) > images.shape[1]:
        raise ValueError(f"widths {list(widths)} do not fit embeddings of {images.shape[1]}")
    parts = [
        loss(
            functional.normalize(images[:, :width], dim=-1),
            functional.normalize(texts[:, :width], dim=-1),
            positives,
        )
        for width in widths
    ]
    return LossSum(torch.stack([p.total for p in parts]).mean(), parts[0].count)
