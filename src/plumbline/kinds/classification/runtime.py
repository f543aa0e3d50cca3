"""Classes with their probabilities, one result per head."""

from typing import TypedDict

from plumbline.export.runtime.files import Floats
from plumbline.export.runtime.inputs import Request
from plumbline.export.runtime.scores import softmax
from plumbline.kinds.headed.runtime import HeadedTask


class ClassHead(TypedDict):
    """What the contract says of a head."""

    classes: list[str]


class ClassificationTask(HeadedTask[ClassHead]):
    """The likeliest class of each head."""

    name = "classification"

    head = {"classes": [str]}

    def predict(self, request: Request) -> dict[str, object]:
        """Give class, confidence and the probabilities of all classes, by head where several."""
        logits = self.logits(self.inputs(request))
        heads = {
            # [classes]: a request is one sample.
            head: _classify(logits[head][0], facts["classes"])
            for head, facts in self.contract["heads"].items()
        }
        return next(iter(heads.values())) if len(heads) == 1 else {"heads": heads}


def _classify(logits: Floats, classes: list[str]) -> dict[str, object]:
    probabilities = softmax(logits)
    best = int(logits.argmax())
    return {
        "class": classes[best],
        "confidence": float(probabilities[best]),
        "probabilities": dict(zip(classes, probabilities.tolist(), strict=True)),
    }


TASK = ClassificationTask
