"""Ask a stored model for classes."""

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
    """Of each part one class."""
    from plumbline.inspection.predictions import softmax_of

    return {head: softmax_of(logits) for head, logits in outputs[""].items()}


def answer(
    stored: "Stored[nn.Module, ModelSpec]", options: Options, device: "torch.device", folder: Path
) -> Answer:
    """The class of each head, with the probabilities of all classes."""
    from plumbline.kinds.classification.model import ClassifierSpec
    from plumbline.metrics.classification import softmax

    assert isinstance(stored.spec, ClassifierSpec)
    logits, cut = outputs_of(stored, options, device, folder)
    heads: dict[str, Answer] = {}
    for part, names in stored.spec.classes.items():
        row = softmax(logits[part])[0]
        heads[part] = {
            "class": names[int(row.argmax())],
            "confidence": float(row.max()),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
    answer: Answer = next(iter(heads.values())) if len(heads) == 1 else {"heads": heads}
    return {**answer, **cut}


ASK = Ask(answer, required=None)
