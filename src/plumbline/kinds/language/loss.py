"""The loss of tokens that the settings choose, over the positions that have a label."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from plumbline.batch import LossSum
from plumbline.kinds.language.settings import TOKEN_LOSSES, TokenTaskConfig
from plumbline.losses.language import TokenLoss, token_cross_entropy
from plumbline.models.lm_head import LmHead
from plumbline.registry import load_attribute


def chosen_loss(config: TokenTaskConfig) -> TokenLoss:
    """The function that `config.loss` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    loss: TokenLoss = load_attribute(TOKEN_LOSSES[config.loss])
    return loss


def labelled_loss(
    head: LmHead,
    run: Callable[[], Tensor],
    labels: Tensor,
    *,
    token_loss: TokenLoss = token_cross_entropy,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Sum a loss over the positions that have a label; logits are made nowhere else.

    Args:
        head: of the model.
        run: calls the model.
        labels: [batch, seq], as `LmHead.over_labels` takes them.
        token_loss: of logits [n, vocab] and labels [n], whose sums add up.
        label_smoothing: as in `token_cross_entropy`.
    """
    return head.loss(run, labels, partial(token_loss, label_smoothing=label_smoothing))
