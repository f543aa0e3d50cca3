"""Ask a stored forecaster for the next step of a sequence."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.asking import Answer, Ask, Options
from plumbline.config import Config
from plumbline.kinds.headed.ask import headed_inputs

if TYPE_CHECKING:
    from plumbline.inspection.predictions import Outputs, Prediction


def answer(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The next step, on the scale of training."""
    import torch

    from plumbline.models.device import to_device

    inputs, cut = headed_inputs(stored, options, folder)
    with torch.inference_mode():
        forecasts = stored.model(**to_device(inputs, device))
    return {"next": forecasts[0, -1].float().cpu().tolist(), **cut}


def predictions(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """A number is its own prediction."""
    from plumbline.inspection.predictions import Prediction

    return {"next": Prediction(outputs[""], None)}


ASK = Ask(answer, required="features")
