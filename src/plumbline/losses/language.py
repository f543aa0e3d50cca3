"""Cross-entropy over tokens."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional

from plumbline.batch import IGNORE_INDEX, LossSum


class TokenLoss(Protocol):
    """What the entries of `plumbline.kinds.language.settings.TOKEN_LOSSES` name."""

    def __call__(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> LossSum:
        """Sum a loss over the labels that count, of which there are as many as it counts.

        It is called with as many positions as fit at a time, so sums of parts have to add up.

        Args:
            logits: [..., vocab].
            labels: [...], `IGNORE_INDEX` where a position carries no loss.
            label_smoothing: as in `token_cross_entropy`.
        """
        ...


def token_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> LossSum:
    """Sum cross-entropy, in nats, over the labels that count; nothing is shifted here.

    Args:
        logits: [..., vocab], any float dtype; the softmax runs in float32.
        labels: [...], int64, `IGNORE_INDEX` where a position carries no loss.
        label_smoothing: mass moved to the uniform distribution, in [0, 1).

    Raises:
        ValueError: logits and labels disagree on their leading dimensions.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    total = functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return LossSum(total, (labels != IGNORE_INDEX).sum())
