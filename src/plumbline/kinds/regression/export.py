"""The bundle of a regressor."""

import numpy as np

from plumbline.kinds.headed.export import Floats, HeadedPlan
from plumbline.kinds.regression.model import RegressorSpec
from plumbline.kinds.regression.rows import NumberedRows
from plumbline.loading.inputs import Input


class RegressionPlan(HeadedPlan[RegressorSpec, NumberedRows]):
    """What is special in the bundle of a regressor."""

    answers = "plumbline/kinds/regression/runtime.py"
    verb = "gives a number for"
    answer = "It holds the value, or the `values` of all heads, in the units of the training data."
    decision, metric = "value", "mse"

    def _heads(self) -> dict[str, object]:
        spec = self.stored.spec
        return {part: {"mean": spec.mean[part], "std": spec.std[part]} for part in spec.parts}

    def _rows(self, inputs: Input) -> NumberedRows:
        return NumberedRows(
            self.cache, self.config.split, inputs, self.inputs.source, self.stored.spec.parts
        )

    def _agreement(self, known: dict[str, Floats], got: dict[str, Floats]) -> tuple[float, int]:
        limit = self.config.max_logits_difference
        # A number is no choice: it agrees where it is as near as outputs have to be.
        same = np.stack([np.abs(known[name] - got[name]) <= limit for name in known])
        return float(same.mean()), same.size

    def _metric(self, rows: NumberedRows, places: list[int], outputs: dict[str, Floats]) -> float:
        """The mean squared error in units of the training deviation."""
        spec, errors = self.stored.spec, list[float]()
        for at, part in enumerate(spec.parts):
            wanted = (rows.values[places, at] - spec.mean[part]) / spec.std[part]
            difference = outputs[part][:, 0] - wanted  # NaN where the sample has no number
            errors += np.square(difference[~np.isnan(difference)]).tolist()
        return float(np.mean(errors)) if errors else 0.0

    def _expected(self, logits: dict[str, Floats]) -> dict[str, object]:
        spec = self.stored.spec
        values = {
            part: float(logits[part][0]) * spec.std[part] + spec.mean[part] for part in spec.parts
        }
        return {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}


PLAN = RegressionPlan
