"""Ask a stored model for numbers."""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.asking import Answer, Ask, Options
from plumbline.config import Config
from plumbline.kinds.headed.ask import outputs_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plumbline.inspection.predictions import Outputs, Prediction
    from plumbline.models.spec import ModelSpec
    from plumbline.models.stored import Stored


def predictions(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """A number is its own prediction."""
    from plumbline.inspection.predictions import Prediction

    return {head: Prediction(values, None) for head, values in outputs[""].items()}


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """The number of each head, in the units of the data."""
    from plumbline.kinds.regression.model import RegressorSpec

    spec = stored.spec
    assert isinstance(spec, RegressorSpec)
    outputs, cut = outputs_of(stored, options, device, folder)
    values = {
        part: float(outputs[part][0, 0]) * spec.std[part] + spec.mean[part] for part in spec.parts
    }
    answer = {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}
    return {**answer, **cut}


ASK = Ask(answer, required=None)
