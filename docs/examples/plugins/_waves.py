"""What `plugins/waves.py` names and what needs torch."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.waves import CausalConfig
from plumbline.batch import IGNORE_INDEX, LossSum
from plumbline.models.encoders import Encoded, Encoder


class CausalEncoder(Encoder):
    """Its tokens know the steps up to their own; the last one stands for the sequence."""

    def __init__(self, config: CausalConfig, *, channels: int) -> None:
        """Build for inputs of `channels` features a step."""
        super().__init__()
        widths = [channels, *[config.width] * config.layers]
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, kernel_size=3, dilation=2**at)
            for at, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.width = self.token_width = config.width

    def forward(self, steps: Tensor, mask: Tensor, **others: Any) -> Encoded:
        """Encode [batch, steps, channels] under mask [batch, steps]."""
        hidden = steps.transpose(1, 2)  # [batch, channels, steps], as convolutions take it
        for at, layer in enumerate(self.layers):
            # Zeros in front alone, so that no token sees a later step.
            hidden = functional.gelu(layer(functional.pad(hidden, (2 * 2**at, 0))))
        tokens = hidden.transpose(1, 2)
        rows = torch.arange(steps.shape[0], device=steps.device)
        return Encoded(tokens * mask.unsqueeze(-1), tokens[rows, mask.sum(dim=1) - 1], mask)


def brier(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossSum:
    """Sum the squared errors of the probabilities: a `ClassLoss`.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    known = labels != IGNORE_INDEX
    truth = functional.one_hot(labels.where(known, 0), logits.shape[1]).float()
    truth = truth * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    errors = (logits.float().softmax(dim=1) - truth).square().sum(dim=1)
    if weights is not None:
        errors = errors * weights.to(errors)[labels.where(known, 0)]
    return LossSum((errors * known).sum(), known.sum())
