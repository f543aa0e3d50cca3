"""Ask a stored model for classes."""

from pathlib import Path
from typing import Any

from plumbline.asking import Answer, Options
from plumbline.config import Config
from plumbline.inspection.predictions import Outputs, Prediction, _softmax
from plumbline.kinds.headed.ask import _outputs


def classes(outputs: Outputs, config: Config) -> dict[str, Prediction]:
    """Of each part one class."""
    return {head: _softmax(logits) for head, logits in outputs[""].items()}


def answer_classification(stored: Any, options: Options, device: Any, folder: Path) -> Answer:
    """The class of each head, with the probabilities of all classes."""
    from plumbline.kinds.classification.evaluate import softmax

    (logits, cut), heads = _outputs(stored, options, device, folder), {}
    for part, names in stored.spec.classes.items():
        row = softmax(logits[part])[0]
        heads[part] = {
            "class": names[int(row.argmax())],
            "confidence": float(row.max()),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
    answer: Answer = next(iter(heads.values())) if len(heads) == 1 else {"heads": heads}
    return {**answer, **cut}
