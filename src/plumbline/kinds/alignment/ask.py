"""Ask a stored model which text fits a medium."""

import torch

from plumbline.config import Config
from plumbline.inspection.predictions import Outputs, Prediction, _softmax
from plumbline.kinds.alignment.model import unit
from plumbline.kinds.alignment.settings import AlignmentTaskConfig


def pairs(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """Which text fits a medium: one of all texts, or each text by itself with the sigmoid loss."""
    assert isinstance(config, AlignmentTaskConfig)
    found = outputs[""]
    logits = found.logit_scale * unit(found.media) @ unit(found.texts).T
    if config.loss == "sigmoid":
        logits = logits + found.logit_bias
        return {"texts": Prediction(logits, torch.sigmoid(logits.float()))}
    return {"texts": _softmax(logits)}
