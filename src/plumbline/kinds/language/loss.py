"""The loss of tokens that the settings choose."""

from plumbline.kinds.language.settings import TOKEN_LOSSES, TokenTaskConfig
from plumbline.losses.language import TokenLoss
from plumbline.registry import load_attribute


def chosen_loss(config: TokenTaskConfig) -> TokenLoss:
    """The function that `config.loss` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    loss: TokenLoss = load_attribute(TOKEN_LOSSES[config.loss])
    return loss
