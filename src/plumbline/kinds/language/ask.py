"""Ask a stored model for the next token."""

from plumbline.config import Config
from plumbline.inspection.predictions import Outputs, Prediction, _softmax


def tokens(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """The next or the hidden token, one of all."""
    return {"tokens": _softmax(outputs[""])}
