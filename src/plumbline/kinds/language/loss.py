"""The loss of tokens that the settings choose, over the positions that have a label."""

from functools import partial

from torch import nn

from plumbline.batch import Batch, LossSum
from plumbline.kinds.language.settings import TOKEN_LOSSES, TokenTaskConfig
from plumbline.losses.language import TokenLoss, token_cross_entropy
from plumbline.models.lm_head import LanguageModel, at_places, chunked_loss
from plumbline.registry import load_attribute


def chosen_loss(config: TokenTaskConfig) -> TokenLoss:
    """The function that `config.loss` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    loss: TokenLoss = load_attribute(TOKEN_LOSSES[config.loss])
    return loss


def settle(model: nn.Module, batch: Batch) -> None:
    """Find out what no program can about a `LanguageModel`, given a batch as in `language_loss`."""
    assert isinstance(model, LanguageModel)
    if model.behind_map is None:
        model.lm_head.settle(partial(model, **batch), batch["labels"], batch.get("labelled"))


def language_loss(
    model: nn.Module,
    batch: Batch,
    *,
    token_loss: TokenLoss = token_cross_entropy,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Sum a loss over the positions that have a label; logits are made nowhere else.

    Args:
        model: a `LanguageModel`, called with the batch.
        batch: labels [batch, seq] among it, each in the position that says it: `collate` has
            shifted them where the next token is meant.
        token_loss: of logits [n, vocab] and labels [n], whose sums add up.
        label_smoothing: as in `token_cross_entropy`.
    """
    assert isinstance(model, LanguageModel)
    of_tokens = partial(token_loss, label_smoothing=label_smoothing)
    labels, labelled, behind = batch["labels"], batch.get("labelled"), model.behind_map
    if behind is None:
        return model.lm_head.loss(partial(model, **batch), labels, labelled, of_tokens)
    hidden = at_places(model.layers(**batch), labelled)  # [n, width]
    return chunked_loss(
        model.lm_head.map,
        hidden,
        at_places(labels, labelled),
        lambda logits, chosen: of_tokens(behind(logits), chosen),
    )
