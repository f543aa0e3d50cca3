"""The bundle of a classifier."""

import numpy as np

from plumbline.batch import IGNORE_INDEX
from plumbline.kinds.classification.model import ClassifierSpec
from plumbline.kinds.classification.rows import LabelledRows
from plumbline.kinds.headed.export import Floats, HeadedPlan
from plumbline.loading.inputs import Input
from plumbline.metrics.classification import softmax


class ClassificationPlan(HeadedPlan[ClassifierSpec, LabelledRows]):
    """What is special in the bundle of a classifier."""

    answers = "plumbline/kinds/classification/runtime.py"
    verb = "tells the class of"
    answer = (
        "It holds the class, the confidence and the probabilities of all classes, under `heads` "
        "where the model tells several things at once."
    )
    decision, metric = "class", "accuracy"

    def _heads(self) -> dict[str, object]:
        classes = self.stored.spec.classes
        return {part: {"classes": names} for part, names in classes.items()}

    def _rows(self, inputs: Input) -> LabelledRows:
        parts = list(self.stored.spec.classes)
        return LabelledRows(
            *(self.cache, self.config.split, inputs, self.inputs.source, parts),
            classes=self.stored.spec.classes,
        )

    def _agreement(self, known: dict[str, Floats], got: dict[str, Floats]) -> tuple[float, int]:
        # [heads, samples]: probabilities may differ where the decision does not
        same = np.stack([known[name].argmax(axis=1) == got[name].argmax(axis=1) for name in known])
        return float(same.mean()), same.size

    def _metric(self, rows: LabelledRows, places: list[int], outputs: dict[str, Floats]) -> float:
        hits = []
        for at, part in enumerate(self.stored.spec.classes):
            labels = rows.labels[places, at]
            chosen = outputs[part].argmax(axis=1)
            # A sample without a label of this part is neither right nor wrong.
            hits += (chosen == labels)[labels != IGNORE_INDEX].tolist()
        return float(np.mean(hits)) if hits else 0.0

    def _expected(self, logits: dict[str, Floats]) -> dict[str, object]:
        heads: dict[str, dict[str, object]] = {}
        for part, names in self.stored.spec.classes.items():
            row = logits[part]
            probabilities = softmax(row[None])[0]
            heads[part] = {
                "class": names[int(row.argmax())],
                "confidence": float(probabilities.max()),
                "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
            }
        return next(iter(heads.values())) if len(heads) == 1 else {"heads": heads}


PLAN = ClassificationPlan
