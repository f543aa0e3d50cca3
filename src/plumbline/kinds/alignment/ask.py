"""Ask a stored model which text fits a medium."""

from typing import TYPE_CHECKING

from plumbline.config import Config
from plumbline.kinds.alignment.settings import AlignmentTaskConfig

if TYPE_CHECKING:
    from plumbline.inspection.predictions import Outputs, Prediction


def predictions(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """Which text fits a medium: one of all texts, or each text by itself with the sigmoid loss."""
    import torch

    from plumbline.inspection.predictions import Prediction, softmax_of
    from plumbline.kinds.alignment.model import unit

    assert isinstance(config, AlignmentTaskConfig)
    found = outputs[""]
    # [media, texts], as the loss sees them
    logits = found.logit_scale * unit(found.media) @ unit(found.texts).T
    if config.loss == "sigmoid":
        logits = logits + found.logit_bias
        return {"texts": Prediction(logits, torch.sigmoid(logits.float()))}
    return {"texts": softmax_of(logits)}
