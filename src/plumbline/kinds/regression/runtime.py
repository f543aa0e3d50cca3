"""Numbers in the units of the data, one result per head."""

from collections.abc import Mapping
from typing import Any

from plumbline.kinds.headed.runtime import HeadedTask


class RegressionTask(HeadedTask):
    """The number of each head, in the units of the data."""

    name = "regression"

    head = {"mean": float, "std": float}

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Give the value, by head where several."""
        outputs = self.logits(self.inputs(request))
        values = {
            head: float(outputs[head][0, 0]) * facts["std"] + facts["mean"]
            for head, facts in self.contract["heads"].items()
        }
        return {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}


TASK = RegressionTask
