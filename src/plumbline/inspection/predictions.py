"""What a model's last layer says: logits, and the probabilities that its kind of task means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plumbline.config import Config
from plumbline.models.dual_encoder import unit
from plumbline.tasks.config import AlignmentTaskConfig


@dataclass(frozen=True)
class Prediction:
    """The output of one head."""

    logits: Tensor
    probabilities: Tensor | None
    """None where the logits are the prediction, as for numbers."""


Outputs = Mapping[str, Any]
"""Name of a module -> what it gave when it was first called; the model itself is ""."""


def _softmax(logits: Tensor) -> Prediction:
    return Prediction(logits, logits.float().softmax(dim=-1))


def tokens(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """The next or the hidden token, one of all."""
    return {"tokens": _softmax(outputs[""])}


def vlm(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """The next token of an answer; logits are computed for answers alone."""
    return {"tokens": _softmax(outputs["decoder.lm_head"])}


def classes(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """Of each part one class."""
    return {head: _softmax(logits) for head, logits in outputs[""].items()}


def numbers(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """A number is its own prediction."""
    return {head: Prediction(values, None) for head, values in outputs[""].items()}


def pairs(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """Which text fits a medium: one of all texts, or each text by itself with the sigmoid loss."""
    assert isinstance(config, AlignmentTaskConfig)
    found = outputs[""]
    logits = found.logit_scale * unit(found.media) @ unit(found.texts).T
    if config.loss == "sigmoid":
        logits = logits + found.logit_bias
        return {"texts": Prediction(logits, torch.sigmoid(logits.float()))}
    return {"texts": _softmax(logits)}
