"""What an engine is given that it cannot train is refused in one line."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from plumbline.errors import ConfigError
from plumbline.training.config import TrainerConfig
from plumbline.training.deepspeed_engine import DeepSpeedEngine
from tests.training.together import ALONE

DEEPSPEED = TrainerConfig.model_validate({"engine": {"name": "deepspeed"}})


class Scaled(nn.Linear):
    """With a parameter of no dimension, as a temperature is."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def test_deepspeed_that_is_not_installed_is_said_with_the_remedy(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match=r"not installed .*pip install 'plumbline\[deepspeed\]'"):
        DeepSpeedEngine(nn.Linear(2, 2), DEEPSPEED, ALONE)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Scaled(), "cannot hold logit_scale, a parameter of no dimension"),
        (nn.Linear(2, 2).double(), "weight is torch.float64, and it is given float32 alone"),
    ],
)
def test_a_model_that_deepspeed_cannot_spread_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.engine: deepspeed: .*{words}"):
        DeepSpeedEngine(model, DEEPSPEED, ALONE)
