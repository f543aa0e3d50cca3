"""Ask a stored model for numbers."""

from pathlib import Path
from typing import Any

from plumbline.asking import Answer, Options
from plumbline.config import Config
from plumbline.inspection.predictions import Outputs, Prediction
from plumbline.kinds.headed.ask import _outputs


def numbers(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """A number is its own prediction."""
    return {head: Prediction(values, None) for head, values in outputs[""].items()}


def answer_regression(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The number of each head, in the units of the data."""
    (outputs, cut), spec = _outputs(stored, options, device, folder), stored.spec
    values = {
        part: float(outputs[part][0, 0]) * spec.std[part] + spec.mean[part] for part in spec.parts
    }
    answer = {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}
    return {**answer, **cut}
