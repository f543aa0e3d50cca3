"""What a model's last layer says: logits, and the probabilities that its kind of task means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The output of one head."""

    logits: Tensor
    probabilities: Tensor | None
    """None where the logits are the prediction, as for numbers."""


Outputs = Mapping[str, Any]
"""Name of a module -> what it gave when it was first called; the model itself is ""."""


def softmax_of(logits: Tensor) -> Prediction:
    """One of all classes: logits [..., classes]."""
    return Prediction(logits, logits.float().softmax(dim=-1))
