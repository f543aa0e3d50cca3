"""Ask a stored model for the next token."""

from typing import TYPE_CHECKING

from plumbline.config import Config

if TYPE_CHECKING:
    from plumbline.inspection.predictions import Outputs, Prediction


def of_tokens(outputs: "Outputs", config: Config) -> "dict[str, Prediction]":
    """The next or the hidden token, one of all."""
    from plumbline.inspection.predictions import softmax_of

    return {"tokens": softmax_of(outputs[""])}
