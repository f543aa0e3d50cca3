"""The loss of labels that the settings choose."""

from plumbline.kinds.classification.settings import CLASS_LOSSES, ClassificationTaskConfig
from plumbline.losses.classification import ClassLoss
from plumbline.registry import load_attribute


def chosen_loss(config: ClassificationTaskConfig) -> ClassLoss:
    """The function that `config.loss` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    loss: ClassLoss = load_attribute(CLASS_LOSSES[config.loss])
    return loss
