"""Numbers in the units of the data, one result per head."""

from typing import TypedDict

from plumbline.export.runtime.inputs import Request
from plumbline.kinds.headed.runtime import HeadedTask


class NumberHead(TypedDict):
    """What the contract says of a head: what its numbers were scaled by in training."""

    mean: float
    std: float


class RegressionTask(HeadedTask[NumberHead]):
    """The number of each head, in the units of the data."""

    name = "regression"

    head = {"mean": float, "std": float}

    def predict(self, request: Request) -> dict[str, object]:
        """Give the value, by head where several."""
        outputs = self.logits(self.inputs(request))
        values = {
            # [1, 1], in deviations of the training from its mean
            head: float(outputs[head][0, 0]) * facts["std"] + facts["mean"]
            for head, facts in self.contract["heads"].items()
        }
        return {"value": next(iter(values.values()))} if len(values) == 1 else {"values": values}


TASK = RegressionTask
